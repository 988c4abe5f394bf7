// Sums over tensors in f64 and in a fixed order: parts by block, then the parts one after the other.
#include "common.cuh"

#define WARPS 32

KERNEL sum_parts_f64(double* out, const double* part, int pieces, int columns) {
    int column = blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= columns) return;
    double sum = 0;
    for (int piece = 0; piece < pieces; ++piece) sum += part[(Index)piece * columns + column];
    out[column] = sum;
}

KERNEL sum_parts_f32(float* out, const double* part, int pieces, int columns) {
    int column = blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= columns) return;
    double sum = 0;
    for (int piece = 0; piece < pieces; ++piece) sum += part[(Index)piece * columns + column];
    out[column] = (float)sum;
}

// Parts of sum_rows x^power of each column, power 1 or 2: a thread takes AT_ONCE columns, one block row a piece of `piece`
// rows.
KERNEL column_parts(double* part, const T* x, int rows, int columns, int piece, int power) {
    int column = (blockIdx.x * blockDim.x + threadIdx.x) * AT_ONCE;
    if (column >= columns) return;
    int first = blockIdx.y * piece, end = min(rows, first + piece);
    double sums[AT_ONCE] = {};
    for (int row = first; row < end; ++row) {
        Values values = load_each(x + (Index)row * columns + column, columns - column);
        UNROLL for (int j = 0; j < AT_ONCE; ++j) {
            double value = values.at[j];
            sums[j] += power == 2 ? value * value : value;
        }
    }
    UNROLL for (int j = 0; j < AT_ONCE; ++j) {
        if (column + j < columns) part[(Index)blockIdx.y * columns + column + j] = sums[j];
    }
}

// sum_columns |w| of each row; one block a row.
KERNEL row_abs_sums(double* out, const T* w, int columns) {
    __shared__ double shared[WARPS];
    w += (Index)blockIdx.x * columns;
    double sum = 0;
    for (int i = threadIdx.x * AT_ONCE; i < columns; i += blockDim.x * AT_ONCE) {
        Values values = load_each(w + i, columns - i);
        UNROLL for (int j = 0; j < AT_ONCE; ++j) sum += fabsf(values.at[j]);
    }
    sum = block_sum(sum, shared);
    if (threadIdx.x == 0) out[blockIdx.x] = sum;
}

// Sx, Sxx, Sy, Syy, Sxy, S|xy| of one row a block: row r of x, values [r d, min(n, (r + 1) d)), against row rows[r] of y,
// or row r where `rows` is null. x is a gradient, f32 whatever T is. part [rows, 6].
KERNEL moments_parts(double* part, const float* x, const T* y, const int* rows, int d, Index n) {
    __shared__ double shared[6][WARPS];
    Index row = blockIdx.x, start = row * d, length = min((Index)d, n - start);
    x += start;
    y += rows ? (Index)rows[row] * d : start;
    double sums[6] = {};
    for (Index i = threadIdx.x * AT_ONCE; i < length; i += blockDim.x * AT_ONCE) {
        Values left = load_each(x + i, length - i), right = load_each(y + i, length - i);
        UNROLL for (int j = 0; j < AT_ONCE; ++j) {
            double a = left.at[j], b = right.at[j];
            sums[0] += a;
            sums[1] += a * a;
            sums[2] += b;
            sums[3] += b * b;
            sums[4] += a * b;
            sums[5] += fabs(a * b);
        }
    }
    UNROLL for (int i = 0; i < 6; ++i) { // over the block, all six behind one barrier
        double sum = warp_sum(sums[i]);
        if (threadIdx.x % 32 == 0) shared[i][threadIdx.x / 32] = sum;
    }
    __syncthreads();
    if (threadIdx.x >= 6) return;
    double sum = 0;
    for (int warp = 0; warp < (int)blockDim.x / 32; ++warp) sum += shared[threadIdx.x][warp];
    part[6 * row + threadIdx.x] = sum;
}

// Sums of parts [pieces, 6] by one block: each thread in its stride, then over the block.
KERNEL moments_total(double* out, const double* part, int pieces) {
    __shared__ double shared[WARPS];
    for (int i = 0; i < 6; ++i) {
        double sum = 0;
        for (int piece = threadIdx.x; piece < pieces; piece += blockDim.x) sum += part[6 * (Index)piece + i];
        sum = block_sum(sum, shared);
        if (threadIdx.x == 0) out[i] = sum;
    }
}
