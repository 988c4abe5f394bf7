// Attention in bf16 on tensor cores (mma.m16n8k16), sums in f32; heads are whole 16s wide. The same functions as
// attention.cu, in tiles of 64 rows by 64: each of the four warps owns 16 rows.
//
// Fragments: a warp's 16 rows are `a` operands, kept in registers. The other side lies in shared memory in rows, and is
// read as it is (scores: both sides along d) or transposed (outputs: sums over rows). Weights go from a result's registers
// to an operand's without leaving them: the layouts agree. Sources: arXiv:2205.14135, arXiv:2307.08691.
#include "attention.cuh"

#define ROWS 64
#define CHUNKS (ROWS / 16)
#define STEPS (D_HEAD / 16)
#define PITCH (D_HEAD + 8) // 16 bytes more: rows start in different banks

// Rows [first, first + ROWS) of one head to shared memory, 16 bytes a time, 0 beyond `tokens`.
__device__ inline void fetch(bf16* to, const bf16* from, int first, int tokens, Index stride) {
    for (int i = threadIdx.x; i < ROWS * (D_HEAD / 8); i += blockDim.x) {
        int row = i / (D_HEAD / 8), column = i % (D_HEAD / 8) * 8;
        uint4 x = make_uint4(0, 0, 0, 0);
        if (first + row < tokens) x = *(const uint4*)(from + (first + row) * stride + column);
        *(uint4*)(to + row * PITCH + column) = x;
    }
}

// 16 rows of shared memory as an operand.
__device__ inline void own_rows(unsigned a[STEPS][4], const bf16* tile) {
    int lane = threadIdx.x % 32;
    const bf16* row = tile + lane % 16 * PITCH + lane / 16 * 8;
    for (int s = 0; s < STEPS; ++s) load_matrices<false>(a[s], row + 16 * s);
}

// c += a tile^T, for 16 rows of the tile: c[n] holds columns 8 n...
__device__ inline void times_rows(float c[2][4], const unsigned a[STEPS][4], const bf16* tile) {
    int lane = threadIdx.x % 32;
    const bf16* row = tile + (lane / 16 * 8 + lane % 8) * PITCH + lane / 8 % 2 * 8;
    for (int s = 0; s < STEPS; ++s) {
        unsigned b[4];
        load_matrices<false>(b, row + 16 * s);
        mma(c[0], a[s], b[0], b[1]);
        mma(c[1], a[s], b[2], b[3]);
    }
}

// o += a tile, for 16 rows of the tile: o[n] holds columns 8 n.. of the head.
__device__ inline void times_columns(float o[2 * STEPS][4], const unsigned a[4], const bf16* tile) {
    int lane = threadIdx.x % 32;
    const bf16* row = tile + (lane / 8 % 2 * 8 + lane % 8) * PITCH + lane / 16 * 8;
    for (int s = 0; s < STEPS; ++s) {
        unsigned b[4];
        load_matrices<true>(b, row + 16 * s);
        mma(o[2 * s], a, b[0], b[1]);
        mma(o[2 * s + 1], a, b[2], b[3]);
    }
}

// A result of 16 x 16 as an operand.
__device__ inline void as_operand(unsigned a[4], const float c[2][4]) {
    a[0] = pack(c[0][0], c[0][1]);
    a[1] = pack(c[0][2], c[0][3]);
    a[2] = pack(c[1][0], c[1][1]);
    a[3] = pack(c[1][2], c[1][3]);
}

// Rows of a result lie in quads of lanes.
__device__ inline float quad_sum(float x) {
    x += __shfl_xor_sync(0xffffffffu, x, 1);
    return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

__device__ inline float quad_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
    return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}

// Writes the warp's rows, times `factor` for its row g and g + 8; `row` is the first one's number.
__device__ inline void put(bf16* to, const float o[2 * STEPS][4], int row, int tokens, Index stride,
                           const float factor[2]) {
    int lane = threadIdx.x % 32;
    for (int half = 0; half < 2; ++half) {
        int at = row + lane / 4 + 8 * half;
        if (at >= tokens) continue;
        for (int n = 0; n < 2 * STEPS; ++n) {
            unsigned pair = pack(o[n][2 * half] * factor[half], o[n][2 * half + 1] * factor[half]);
            *(unsigned*)(to + at * stride + 8 * n + lane % 4 * 2) = pair;
        }
    }
}

// Grid (tiles of queries, heads, sequences).
KERNEL attention(T* out, float* log_sums, const T* q, const T* k, const T* v, const int* kv_of, int tokens, int heads,
                 int kv_heads, int window, float scale) {
    DYNAMIC_SHARED(memory);
    bf16 *keys = (bf16*)memory, *values = keys + ROWS * PITCH;
    Shape shape = {tokens, heads, kv_heads, window, scale};
    int start = blockIdx.x * ROWS, head = blockIdx.y, sequence = blockIdx.z;
    int lane = threadIdx.x % 32, own = start + threadIdx.x / 32 * 16;
    Index stride = (Index)heads * D_HEAD, kv_stride = (Index)kv_heads * D_HEAD;
    Index at = (Index)sequence * tokens * stride + head * D_HEAD;
    Index kv_at = (Index)sequence * tokens * kv_stride + kv_of[head] * D_HEAD;
    fetch(keys, q + at, start, tokens, stride);
    __syncthreads();
    unsigned queries[STEPS][4];
    own_rows(queries, keys + (own - start) * PITCH);
    float o[2 * STEPS][4] = {}, most[2] = {MINUS_INFINITY, MINUS_INFINITY}, sum[2] = {};
    int end = end_key(shape, start, ROWS);
    for (int first = first_key(shape, start) / ROWS * ROWS; first < end; first += ROWS) {
        __syncthreads();
        fetch(keys, k + kv_at, first, tokens, kv_stride);
        fetch(values, v + kv_at, first, tokens, kv_stride);
        __syncthreads();
        float p[CHUNKS][2][4] = {};
        for (int c = 0; c < CHUNKS; ++c) times_rows(p[c], queries, keys + 16 * c * PITCH);
        for (int half = 0; half < 2; ++half) {
            int query = own + lane / 4 + 8 * half;
            float top = most[half];
            for (int i = 0; i < 4 * CHUNKS; ++i) {
                float& x = p[i / 4][i / 2 % 2][2 * half + i % 2];
                int key = first + i / 4 * 16 + i / 2 % 2 * 8 + lane % 4 * 2 + i % 2;
                x = sees(shape, query, key) ? x * scale : MINUS_INFINITY;
                top = fmaxf(top, x);
            }
            top = quad_max(top);
            float base = top == MINUS_INFINITY ? 0.0f : top; // nothing seen yet: all weights are 0
            float shrink = expf(most[half] - base);
            most[half] = top;
            sum[half] *= shrink;
            for (int i = 0; i < 4 * CHUNKS; ++i) {
                float& x = p[i / 4][i / 2 % 2][2 * half + i % 2];
                x = expf(x - base);
                sum[half] += x;
            }
            for (int n = 0; n < 2 * STEPS; ++n) o[n][2 * half] *= shrink, o[n][2 * half + 1] *= shrink;
        }
        for (int c = 0; c < CHUNKS; ++c) {
            unsigned a[4];
            as_operand(a, p[c]);
            times_columns(o, a, values + 16 * c * PITCH);
        }
    }
    float inverse[2];
    for (int half = 0; half < 2; ++half) {
        float total = quad_sum(sum[half]);
        int query = own + lane / 4 + 8 * half;
        inverse[half] = 1.0f / total;
        if (lane % 4 == 0 && query < tokens) {
            log_sums[((Index)sequence * heads + head) * tokens + query] = most[half] + logf(total);
        }
    }
    put(out + at, o, own, tokens, stride, inverse);
}

// dq = scale dS k, dS = p (do v - along). Grid as the forward.
KERNEL attention_dq(T* dq, const T* q, const T* k, const T* v, const T* dout, const float* log_sums, const float* along,
                    const int* kv_of, int tokens, int heads, int kv_heads, int window, float scale) {
    DYNAMIC_SHARED(memory);
    bf16 *keys = (bf16*)memory, *values = keys + ROWS * PITCH;
    Shape shape = {tokens, heads, kv_heads, window, scale};
    int start = blockIdx.x * ROWS, head = blockIdx.y, sequence = blockIdx.z;
    int lane = threadIdx.x % 32, own = start + threadIdx.x / 32 * 16;
    Index stride = (Index)heads * D_HEAD, kv_stride = (Index)kv_heads * D_HEAD;
    Index at = (Index)sequence * tokens * stride + head * D_HEAD;
    Index kv_at = (Index)sequence * tokens * kv_stride + kv_of[head] * D_HEAD;
    fetch(keys, q + at, start, tokens, stride);
    fetch(values, dout + at, start, tokens, stride);
    __syncthreads();
    unsigned queries[STEPS][4], slopes[STEPS][4];
    own_rows(queries, keys + (own - start) * PITCH);
    own_rows(slopes, values + (own - start) * PITCH);
    float log_sum[2] = {}, pull[2] = {}, sum[2 * STEPS][4] = {};
    for (int half = 0; half < 2; ++half) {
        int query = own + lane / 4 + 8 * half;
        if (query >= tokens) continue;
        log_sum[half] = log_sums[((Index)sequence * heads + head) * tokens + query];
        pull[half] = along[((Index)sequence * heads + head) * tokens + query];
    }
    int end = end_key(shape, start, ROWS);
    for (int first = first_key(shape, start) / ROWS * ROWS; first < end; first += ROWS) {
        __syncthreads();
        fetch(keys, k + kv_at, first, tokens, kv_stride);
        fetch(values, v + kv_at, first, tokens, kv_stride);
        __syncthreads();
        for (int c = 0; c < CHUNKS; ++c) {
            float p[2][4] = {}, dp[2][4] = {};
            times_rows(p, queries, keys + 16 * c * PITCH);
            times_rows(dp, slopes, values + 16 * c * PITCH);
            for (int i = 0; i < 8; ++i) {
                int n = i / 4, half = i % 4 / 2, query = own + lane / 4 + 8 * half;
                int key = first + 16 * c + 8 * n + lane % 4 * 2 + i % 2;
                float weight = sees(shape, query, key) ? expf(p[n][i % 4] * scale - log_sum[half]) : 0.0f;
                p[n][i % 4] = weight * (dp[n][i % 4] - pull[half]);
            }
            unsigned a[4];
            as_operand(a, p);
            times_columns(sum, a, keys + 16 * c * PITCH);
        }
    }
    const float factor[2] = {scale, scale};
    put(dq + at, sum, own, tokens, stride, factor);
}

// dk = scale sum dS q, dv = sum p do over all queries of all heads that read this KV head, in order; rows are keys.
// Grid (tiles of keys, KV heads, sequences).
KERNEL attention_dkv(T* dk, T* dv, const T* q, const T* k, const T* v, const T* dout, const float* log_sums,
                     const float* along, const int* kv_of, int tokens, int heads, int kv_heads, int window, float scale) {
    DYNAMIC_SHARED(memory);
    bf16 *queries = (bf16*)memory, *slopes = queries + ROWS * PITCH;
    Shape shape = {tokens, heads, kv_heads, window, scale};
    int start = blockIdx.x * ROWS, kv = blockIdx.y, sequence = blockIdx.z;
    int lane = threadIdx.x % 32, own = start + threadIdx.x / 32 * 16;
    Index stride = (Index)heads * D_HEAD, kv_stride = (Index)kv_heads * D_HEAD;
    Index kv_at = (Index)sequence * tokens * kv_stride + kv * D_HEAD;
    fetch(queries, k + kv_at, start, tokens, kv_stride);
    fetch(slopes, v + kv_at, start, tokens, kv_stride);
    __syncthreads();
    unsigned keys[STEPS][4], values[STEPS][4];
    own_rows(keys, queries + (own - start) * PITCH);
    own_rows(values, slopes + (own - start) * PITCH);
    float k_sum[2 * STEPS][4] = {}, v_sum[2 * STEPS][4] = {};
    int end = end_query(shape, start, ROWS);
    for (int head = 0; head < heads; ++head) {
        if (kv_of[head] != kv) continue;
        Index at = (Index)sequence * tokens * stride + head * D_HEAD;
        Index rows = ((Index)sequence * heads + head) * tokens;
        for (int first = first_query(shape, start) / ROWS * ROWS; first < end; first += ROWS) {
            __syncthreads();
            fetch(queries, q + at, first, tokens, stride);
            fetch(slopes, dout + at, first, tokens, stride);
            __syncthreads();
            for (int c = 0; c < CHUNKS; ++c) {
                float p[2][4] = {}, ds[2][4] = {};
                times_rows(p, keys, queries + 16 * c * PITCH);
                times_rows(ds, values, slopes + 16 * c * PITCH);
                for (int i = 0; i < 8; ++i) {
                    int n = i / 4, key = own + lane / 4 + i % 4 / 2 * 8;
                    int query = first + 16 * c + 8 * n + lane % 4 * 2 + i % 2;
                    float weight = 0, slope = 0;
                    if (sees(shape, query, key)) {
                        weight = expf(p[n][i % 4] * scale - log_sums[rows + query]);
                        slope = weight * (ds[n][i % 4] - along[rows + query]);
                    }
                    p[n][i % 4] = weight;
                    ds[n][i % 4] = slope;
                }
                unsigned a[4];
                as_operand(a, p);
                times_columns(v_sum, a, slopes + 16 * c * PITCH);
                as_operand(a, ds);
                times_columns(k_sum, a, queries + 16 * c * PITCH);
            }
        }
    }
    const float one[2] = {1.0f, 1.0f}, factor[2] = {scale, scale};
    put(dv + kv_at, v_sum, own, tokens, kv_stride, one);
    put(dk + kv_at, k_sum, own, tokens, kv_stride, factor);
}
