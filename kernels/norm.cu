// RMSNorm, y = w x s with s = 1 / sqrt(mean(x^2) + eps), and LayerNorm, y = w z + b with z = (x - mean(x)) s and
// s = 1 / sqrt(var(x) + eps). One block a row. Sources: arXiv:1910.07467, arXiv:1607.06450.
#include "common.cuh"

#define WARPS 32 // the most a block has

// 1 / sqrt(mean(x^2) + eps) of a row.
__device__ inline float inverse_rms(const T* x, int d, float eps, float* shared) {
    float sum = 0;
    for (int i = threadIdx.x; i < d; i += blockDim.x) sum += load(x + i) * load(x + i);
    return 1.0f / sqrtf(block_sum(sum, shared) / d + eps);
}

// Mean and 1 / sqrt(var + eps) of a row, in two sweeps: the difference of large sums would lose the digits.
__device__ inline float2 mean_and_inverse_deviation(const T* x, int d, float eps, float* shared) {
    float sum = 0, squares = 0;
    for (int i = threadIdx.x; i < d; i += blockDim.x) sum += load(x + i);
    float mean = block_sum(sum, shared) / d;
    for (int i = threadIdx.x; i < d; i += blockDim.x) {
        float away = load(x + i) - mean;
        squares += away * away;
    }
    return make_float2(mean, 1.0f / sqrtf(block_sum(squares, shared) / d + eps));
}

KERNEL rms_norm(T* y, const T* x, const T* w, int d, float eps) {
    __shared__ float shared[WARPS];
    x += (Index)blockIdx.x * d;
    y += (Index)blockIdx.x * d;
    float s = inverse_rms(x, d, eps, shared);
    for (int i = threadIdx.x; i < d; i += blockDim.x) store(y + i, load(w + i) * (load(x + i) * s));
}

// dx = base + s (w dy - x s^2 mean(w dy x)), base 0 where it is null
KERNEL rms_norm_backward(T* dx, const T* base, const T* x, const T* w, const T* dy, int d, float eps) {
    __shared__ float shared[WARPS];
    Index row = (Index)blockIdx.x * d;
    x += row, dy += row, dx += row;
    float s = inverse_rms(x, d, eps, shared), along = 0;
    for (int i = threadIdx.x; i < d; i += blockDim.x) along += load(w + i) * load(dy + i) * load(x + i);
    float pull = block_sum(along, shared) / d * s * s;
    for (int i = threadIdx.x; i < d; i += blockDim.x) {
        float before = base ? load(base + row + i) : 0.0f;
        store(dx + i, before + s * (load(w + i) * load(dy + i) - load(x + i) * pull));
    }
}

KERNEL layer_norm(T* y, const T* x, const T* w, const T* b, int d, float eps) {
    __shared__ float shared[WARPS];
    x += (Index)blockIdx.x * d;
    y += (Index)blockIdx.x * d;
    float2 row = mean_and_inverse_deviation(x, d, eps, shared);
    for (int i = threadIdx.x; i < d; i += blockDim.x) {
        store(y + i, load(w + i) * ((load(x + i) - row.x) * row.y) + load(b + i));
    }
}

// dx = s (g - mean(g) - z mean(g z)), g = w dy
KERNEL layer_norm_backward(T* dx, const T* x, const T* w, const T* dy, int d, float eps) {
    __shared__ float shared[WARPS];
    Index at = (Index)blockIdx.x * d;
    x += at, dy += at, dx += at;
    float2 row = mean_and_inverse_deviation(x, d, eps, shared);
    float sum = 0, along = 0;
    for (int i = threadIdx.x; i < d; i += blockDim.x) {
        float g = load(w + i) * load(dy + i);
        sum += g;
        along += g * (load(x + i) - row.x) * row.y;
    }
    float mean = block_sum(sum, shared) / d, pull = block_sum(along, shared) / d;
    for (int i = threadIdx.x; i < d; i += blockDim.x) {
        float g = load(w + i) * load(dy + i), z = (load(x + i) - row.x) * row.y;
        store(dx + i, row.y * (g - mean - z * pull));
    }
}

// (mean, s) of each row, for the gradients of the weights; `centred` 0 is RMSNorm's, whose mean is 0.
KERNEL norm_statistics(float2* out, const T* x, int d, float eps, int centred) {
    __shared__ float shared[WARPS];
    x += (Index)blockIdx.x * d;
    float2 row = centred ? mean_and_inverse_deviation(x, d, eps, shared)
                         : make_float2(0, inverse_rms(x, d, eps, shared));
    if (threadIdx.x == 0) out[blockIdx.x] = row;
}

// Parts of sum_rows dy z, z = (x - mean) s: one thread a column, one block row a piece of `piece` rows; part [pieces, d].
KERNEL norm_weight_parts(double* part, const T* x, const T* dy, const float2* rows, int n_rows, int d, int piece) {
    int column = blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= d) return;
    int first = blockIdx.y * piece, end = min(n_rows, first + piece);
    double sum = 0;
    for (int row = first; row < end; ++row) {
        Index at = (Index)row * d + column;
        sum += (double)(load(dy + at) * ((load(x + at) - rows[row].x) * rows[row].y));
    }
    part[(Index)blockIdx.y * d + column] = sum;
}
