// Sums of two arrays of one shape, and of rows with a bias. Memory bound; a thread takes AT_ONCE values.
#include "common.cuh"

// y = a + b
KERNEL add(T* y, const T* a, const T* b, Index n) {
    Index i = ((Index)blockIdx.x * blockDim.x + threadIdx.x) * AT_ONCE;
    if (i >= n) return;
    Values x = load_each(a + i, n - i), other = load_each(b + i, n - i);
    UNROLL for (int j = 0; j < AT_ONCE; ++j) x.at[j] += other.at[j];
    store_each(y + i, x, n - i);
}

// y += bias, in every row of d
KERNEL add_bias(T* y, const T* bias, Index n, int d) {
    Index i = ((Index)blockIdx.x * blockDim.x + threadIdx.x) * AT_ONCE;
    if (i >= n) return;
    Values x = load_each(y + i, n - i);
    int column = i % d;
    UNROLL for (int j = 0; j < AT_ONCE; ++j) {
        x.at[j] += load(bias + column);
        column = column + 1 == d ? 0 : column + 1;
    }
    store_each(y + i, x, n - i);
}
