// Rows of sequences multiplied with numbers of their own, and dot products of columns.
#include "common.cuh"

// y = x factors[row / tokens], rows of d
KERNEL scale_sequences(T* y, const T* x, const float* factors, Index n, Index values) {
    Index i = (Index)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) store(y + i, load(x + i) * factors[i / values]);
}

// Parts of sum_rows x y of each column: one thread a column, one block row a piece of `piece` rows.
KERNEL column_dot_parts(double* part, const T* x, const T* y, int rows, int columns, int piece) {
    int column = blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= columns) return;
    int first = blockIdx.y * piece, end = min(rows, first + piece);
    double sum = 0;
    for (int row = first; row < end; ++row) {
        Index at = (Index)row * columns + column;
        sum += (double)load(x + at) * load(y + at);
    }
    part[(Index)blockIdx.y * columns + column] = sum;
}
