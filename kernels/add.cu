// Sums of two arrays of one shape, and of rows with a bias.
#include "common.cuh"

// y = a + b
KERNEL add(T* y, const T* a, const T* b, Index n) {
    Index i = (Index)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) store(y + i, load(a + i) + load(b + i));
}

// y += bias, in every row of d
KERNEL add_bias(T* y, const T* bias, Index n, int d) {
    Index i = (Index)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) store(y + i, load(y + i) + load(bias + i % d));
}
