// RMSNorm, y = w x s with s = 1 / sqrt(mean(x^2) + eps), and LayerNorm, y = w z + b with z = (x - mean(x)) s and
// s = 1 / sqrt(var(x) + eps). One block a row. Sources: arXiv:1910.07467, arXiv:1607.06450.
#include "common.cuh"

#define WARPS 32 // the most a block has
// Values `i` and on of a row; each thread takes AT_ONCE of them a turn. Where a row is swept again it comes from the caches.
#define OF_ROW(i) for (int i = threadIdx.x * AT_ONCE; i < d; i += blockDim.x * AT_ONCE)

// 1 / sqrt(mean(x^2) + eps) of a row.
__device__ inline float inverse_rms(const T* x, int d, float eps, float* shared) {
    float sum = 0;
    OF_ROW(i) {
        Values a = load_each(x + i, d - i);
        UNROLL for (int j = 0; j < AT_ONCE; ++j) sum += a.at[j] * a.at[j];
    }
    return 1.0f / sqrtf(block_sum(sum, shared) / d + eps);
}

// Mean and 1 / sqrt(var + eps) of a row, in two sweeps: the difference of large sums would lose the digits.
__device__ inline float2 mean_and_inverse_deviation(const T* x, int d, float eps, float* shared) {
    float sum = 0, squares = 0;
    OF_ROW(i) {
        Values a = load_each(x + i, d - i);
        UNROLL for (int j = 0; j < AT_ONCE; ++j) sum += a.at[j];
    }
    float mean = block_sum(sum, shared) / d;
    OF_ROW(i) {
        Values a = load_each(x + i, d - i);
        UNROLL for (int j = 0; j < AT_ONCE; ++j) {
            float away = j < d - i ? a.at[j] - mean : 0.0f;
            squares += away * away;
        }
    }
    return make_float2(mean, 1.0f / sqrtf(block_sum(squares, shared) / d + eps));
}

KERNEL rms_norm(T* y, const T* x, const T* w, int d, float eps) {
    __shared__ float shared[WARPS];
    x += (Index)blockIdx.x * d;
    y += (Index)blockIdx.x * d;
    float s = inverse_rms(x, d, eps, shared);
    OF_ROW(i) {
        Values a = load_each(x + i, d - i), b = load_each(w + i, d - i);
        UNROLL for (int j = 0; j < AT_ONCE; ++j) a.at[j] = b.at[j] * (a.at[j] * s);
        store_each(y + i, a, d - i);
    }
}

// dx = base + s (w dy - x s^2 mean(w dy x)), base 0 where it is null
KERNEL rms_norm_backward(T* dx, const T* base, const T* x, const T* w, const T* dy, int d, float eps) {
    __shared__ float shared[WARPS];
    Index row = (Index)blockIdx.x * d;
    x += row, dy += row, dx += row;
    float2 sums = make_float2(0, 0); // of x^2, and of w dy x
    OF_ROW(i) {
        Values a = load_each(x + i, d - i), b = load_each(w + i, d - i), g = load_each(dy + i, d - i);
        UNROLL for (int j = 0; j < AT_ONCE; ++j) {
            sums.x += a.at[j] * a.at[j];
            sums.y += b.at[j] * g.at[j] * a.at[j];
        }
    }
    float s = 1.0f / sqrtf(block_sum(sums.x, shared) / d + eps);
    float pull = block_sum(sums.y, shared) / d * s * s;
    OF_ROW(i) {
        Values a = load_each(x + i, d - i), b = load_each(w + i, d - i), g = load_each(dy + i, d - i), before = {};
        if (base) before = load_each(base + row + i, d - i);
        UNROLL for (int j = 0; j < AT_ONCE; ++j) a.at[j] = before.at[j] + s * (b.at[j] * g.at[j] - a.at[j] * pull);
        store_each(dx + i, a, d - i);
    }
}

KERNEL layer_norm(T* y, const T* x, const T* w, const T* b, int d, float eps) {
    __shared__ float shared[WARPS];
    x += (Index)blockIdx.x * d;
    y += (Index)blockIdx.x * d;
    float2 row = mean_and_inverse_deviation(x, d, eps, shared);
    OF_ROW(i) {
        Values a = load_each(x + i, d - i), g = load_each(w + i, d - i), c = load_each(b + i, d - i);
        UNROLL for (int j = 0; j < AT_ONCE; ++j) a.at[j] = g.at[j] * ((a.at[j] - row.x) * row.y) + c.at[j];
        store_each(y + i, a, d - i);
    }
}

// dx = s (g - mean(g) - z mean(g z)), g = w dy
KERNEL layer_norm_backward(T* dx, const T* x, const T* w, const T* dy, int d, float eps) {
    __shared__ float shared[WARPS];
    Index at = (Index)blockIdx.x * d;
    x += at, dy += at, dx += at;
    float2 row = mean_and_inverse_deviation(x, d, eps, shared);
    float sum = 0, along = 0;
    OF_ROW(i) {
        Values a = load_each(x + i, d - i), b = load_each(w + i, d - i), g = load_each(dy + i, d - i);
        UNROLL for (int j = 0; j < AT_ONCE; ++j) {
            float slope = b.at[j] * g.at[j];
            sum += slope;
            along += slope * (a.at[j] - row.x) * row.y;
        }
    }
    float mean = block_sum(sum, shared) / d, pull = block_sum(along, shared) / d;
    OF_ROW(i) {
        Values a = load_each(x + i, d - i), b = load_each(w + i, d - i), g = load_each(dy + i, d - i);
        UNROLL for (int j = 0; j < AT_ONCE; ++j) {
            float z = (a.at[j] - row.x) * row.y;
            a.at[j] = row.y * (b.at[j] * g.at[j] - mean - z * pull);
        }
        store_each(dx + i, a, d - i);
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

// Parts of sum_rows dy z, z = (x - mean) s: a thread takes AT_ONCE columns, one block row a piece of `piece` rows; part
// [pieces, d].
KERNEL norm_weight_parts(double* part, const T* x, const T* dy, const float2* rows, int n_rows, int d, int piece) {
    int column = (blockIdx.x * blockDim.x + threadIdx.x) * AT_ONCE;
    if (column >= d) return;
    int first = blockIdx.y * piece, end = min(n_rows, first + piece);
    double sums[AT_ONCE] = {};
    for (int row = first; row < end; ++row) {
        Index at = (Index)row * d + column;
        Values a = load_each(x + at, d - column), g = load_each(dy + at, d - column);
        float2 of = rows[row];
        UNROLL for (int j = 0; j < AT_ONCE; ++j) sums[j] += (double)(g.at[j] * ((a.at[j] - of.x) * of.y));
    }
    UNROLL for (int j = 0; j < AT_ONCE; ++j) {
        if (column + j < d) part[(Index)blockIdx.y * d + column + j] = sums[j];
    }
}
