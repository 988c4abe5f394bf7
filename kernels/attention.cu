// Attention by plain multiply-add in f32, for values of either type and heads of any width up to 256.
//
// Tiles of 16 queries by 32 keys: no tokens x tokens matrix. The forward keeps the log-sums, the backward computes the
// weights again from them. Every sum has one owner, so nothing is added by atomics.
// Sources: arXiv:1706.03762, arXiv:2205.14135 (blocks, recomputation), arXiv:2305.13245 (groups).
#include "attention.cuh"

#define QUERIES 16 // of a tile
#define KEYS 32    // of a tile: one a lane
#define WARPS 4
#define EACH (QUERIES / WARPS)     // queries of a warp
#define WIDE ((D_HEAD + 31) / 32)  // values of a head a lane owns
// Value `i` of a head, the lane's `j`-th; the number of turns is constant, so that what `j` counts stays in registers.
#define OWNED(j, i) UNROLL for (int j = 0, i = lane; j < WIDE; ++j, i += 32) if (i < D_HEAD)
#define PITCH (D_HEAD + 1)         // of shared rows: lanes read down a column

// Rows [first, first + count) of one head to shared memory, 0 beyond `tokens`.
__device__ inline void fetch(float* to, const T* from, int first, int count, int tokens, Index stride) {
    for (int i = threadIdx.x; i < count * D_HEAD; i += blockDim.x) {
        int row = i / D_HEAD, column = i % D_HEAD;
        to[row * PITCH + column] = first + row < tokens ? load(from + (first + row) * stride + column) : 0.0f;
    }
}

__device__ inline float dot(const float* a, const float* b) {
    float sum = 0;
    for (int i = 0; i < D_HEAD; ++i) sum += a[i] * b[i];
    return sum;
}

// Grid (tiles of queries, heads, sequences).
KERNEL attention(T* out, float* log_sums, const T* q, const T* k, const T* v, const int* kv_of, const int* first, int tokens,
                 int heads, int kv_heads, int window, float scale) {
    DYNAMIC_SHARED(memory);
    float *queries = (float*)memory, *keys = queries + QUERIES * PITCH, *values = keys + KEYS * PITCH;
    int start = blockIdx.x * QUERIES, head = blockIdx.y, sequence = blockIdx.z;
    Shape shape = {tokens, heads, kv_heads, window, scale, of_sequence(first, sequence, tokens)};
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    Index stride = (Index)heads * D_HEAD, kv_stride = (Index)kv_heads * D_HEAD;
    Index at = (Index)sequence * tokens * stride + head * D_HEAD;
    Index kv_at = (Index)sequence * tokens * kv_stride + kv_of[head] * D_HEAD;
    fetch(queries, q + at, start, QUERIES, tokens, stride);
    float most[EACH], sum[EACH], o[EACH][WIDE];
    UNROLL for (int r = 0; r < EACH; ++r) {
        most[r] = MINUS_INFINITY, sum[r] = 0;
        UNROLL for (int j = 0; j < WIDE; ++j) o[r][j] = 0;
    }
    int end = end_key(shape, start, QUERIES);
    for (int tile = first_key(shape, start) / KEYS * KEYS; tile < end; tile += KEYS) {
        __syncthreads();
        fetch(keys, k + kv_at, tile, KEYS, tokens, kv_stride);
        fetch(values, v + kv_at, tile, KEYS, tokens, kv_stride);
        __syncthreads();
        UNROLL for (int r = 0; r < EACH; ++r) {
            int row = warp * EACH + r;
            bool seen = sees(shape, start + row, tile + lane);
            float score = seen ? dot(queries + row * PITCH, keys + lane * PITCH) * scale : MINUS_INFINITY;
            float top = fmaxf(most[r], warp_max(score));
            if (top == MINUS_INFINITY) continue; // nothing seen yet; the same in all lanes
            float shrink = expf(most[r] - top), p = expf(score - top);
            most[r] = top;
            sum[r] = sum[r] * shrink + warp_sum(p);
            UNROLL for (int j = 0; j < WIDE; ++j) o[r][j] *= shrink;
            for (int key = 0; key < KEYS; ++key) {
                float weight = __shfl_sync(0xffffffffu, p, key);
                OWNED(j, i) o[r][j] += weight * values[key * PITCH + i];
            }
        }
    }
    UNROLL for (int r = 0; r < EACH; ++r) {
        int query = start + warp * EACH + r;
        if (query >= tokens) continue;
        OWNED(j, i) store(out + at + query * stride + i, o[r][j] / sum[r]);
        if (lane == 0) log_sums[((Index)sequence * heads + head) * tokens + query] = most[r] + logf(sum[r]);
    }
}

// along[t] = do_t . o_t; one warp a row and head, grid (tiles of tokens, heads, sequences).
KERNEL attention_along(float* along, const T* out, const T* dout, int tokens, int heads) {
    int token = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (token >= tokens) return; // whole warps
    Index at = (((Index)blockIdx.z * tokens + token) * heads + blockIdx.y) * D_HEAD;
    float sum = 0;
    for (int i = lane * AT_ONCE; i < D_HEAD; i += 32 * AT_ONCE) {
        Values o = load_each(out + at + i, D_HEAD - i), slope = load_each(dout + at + i, D_HEAD - i);
        UNROLL for (int j = 0; j < AT_ONCE; ++j) sum += o.at[j] * slope.at[j];
    }
    sum = warp_sum(sum);
    if (lane == 0) along[((Index)blockIdx.z * heads + blockIdx.y) * tokens + token] = sum;
}

// dq = scale dS k, dS = p (do v - along). Grid as the forward.
KERNEL attention_dq(T* dq, const T* q, const T* k, const T* v, const T* dout, const float* log_sums, const float* along,
                    const int* kv_of, const int* first, int tokens, int heads, int kv_heads, int window,
                    float scale) {
    DYNAMIC_SHARED(memory);
    float *queries = (float*)memory, *slopes = queries + QUERIES * PITCH, *keys = slopes + QUERIES * PITCH;
    float* values = keys + KEYS * PITCH;
    int start = blockIdx.x * QUERIES, head = blockIdx.y, sequence = blockIdx.z;
    Shape shape = {tokens, heads, kv_heads, window, scale, of_sequence(first, sequence, tokens)};
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    Index stride = (Index)heads * D_HEAD, kv_stride = (Index)kv_heads * D_HEAD;
    Index at = (Index)sequence * tokens * stride + head * D_HEAD;
    Index kv_at = (Index)sequence * tokens * kv_stride + kv_of[head] * D_HEAD;
    Index rows = ((Index)sequence * heads + head) * tokens;
    fetch(queries, q + at, start, QUERIES, tokens, stride);
    fetch(slopes, dout + at, start, QUERIES, tokens, stride);
    float sum[EACH][WIDE] = {};
    int end = end_key(shape, start, QUERIES);
    for (int tile = first_key(shape, start) / KEYS * KEYS; tile < end; tile += KEYS) {
        __syncthreads();
        fetch(keys, k + kv_at, tile, KEYS, tokens, kv_stride);
        fetch(values, v + kv_at, tile, KEYS, tokens, kv_stride);
        __syncthreads();
        UNROLL for (int r = 0; r < EACH; ++r) {
            int row = warp * EACH + r, query = start + row;
            float ds = 0;
            if (sees(shape, query, tile + lane)) {
                float p = expf(dot(queries + row * PITCH, keys + lane * PITCH) * scale - log_sums[rows + query]);
                ds = p * (dot(slopes + row * PITCH, values + lane * PITCH) - along[rows + query]);
            }
            for (int key = 0; key < KEYS; ++key) {
                float slope = __shfl_sync(0xffffffffu, ds, key);
                OWNED(j, i) sum[r][j] += slope * keys[key * PITCH + i];
            }
        }
    }
    UNROLL for (int r = 0; r < EACH; ++r) {
        int query = start + warp * EACH + r;
        if (query >= tokens) continue;
        OWNED(j, i) store(dq + at + query * stride + i, sum[r][j] * scale);
    }
}

// dk = scale sum dS q, dv = sum p do over all queries of all heads that read this KV head, in order. Here the block's tile
// is 16 keys and lanes are queries. Grid (tiles of keys, KV heads, sequences).
KERNEL attention_dkv(T* dk, T* dv, const T* q, const T* k, const T* v, const T* dout, const float* log_sums,
                     const float* along, const int* kv_of, const int* first, int tokens, int heads, int kv_heads,
                     int window, float scale) {
    DYNAMIC_SHARED(memory);
    float *keys = (float*)memory, *values = keys + QUERIES * PITCH, *queries = values + QUERIES * PITCH;
    float* slopes = queries + KEYS * PITCH;
    int start = blockIdx.x * QUERIES, kv = blockIdx.y, sequence = blockIdx.z;
    Shape shape = {tokens, heads, kv_heads, window, scale, of_sequence(first, sequence, tokens)};
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    Index stride = (Index)heads * D_HEAD, kv_stride = (Index)kv_heads * D_HEAD;
    Index kv_at = (Index)sequence * tokens * kv_stride + kv * D_HEAD;
    fetch(keys, k + kv_at, start, QUERIES, tokens, kv_stride);
    fetch(values, v + kv_at, start, QUERIES, tokens, kv_stride);
    float k_sum[EACH][WIDE] = {}, v_sum[EACH][WIDE] = {};
    int end = end_query(shape, start, QUERIES);
    for (int head = 0; head < heads; ++head) {
        if (kv_of[head] != kv) continue;
        Index at = (Index)sequence * tokens * stride + head * D_HEAD;
        Index rows = ((Index)sequence * heads + head) * tokens;
        for (int tile = first_query(shape, start) / KEYS * KEYS; tile < end; tile += KEYS) {
            __syncthreads();
            fetch(queries, q + at, tile, KEYS, tokens, stride);
            fetch(slopes, dout + at, tile, KEYS, tokens, stride);
            __syncthreads();
            UNROLL for (int r = 0; r < EACH; ++r) {
                int row = warp * EACH + r, query = tile + lane;
                float p = 0, ds = 0;
                if (sees(shape, query, start + row)) {
                    p = expf(dot(queries + lane * PITCH, keys + row * PITCH) * scale - log_sums[rows + query]);
                    ds = p * (dot(slopes + lane * PITCH, values + row * PITCH) - along[rows + query]);
                }
                for (int other = 0; other < KEYS; ++other) {
                    float weight = __shfl_sync(0xffffffffu, p, other), slope = __shfl_sync(0xffffffffu, ds, other);
                    OWNED(j, i) {
                        v_sum[r][j] += weight * slopes[other * PITCH + i];
                        k_sum[r][j] += slope * queries[other * PITCH + i];
                    }
                }
            }
        }
    }
    UNROLL for (int r = 0; r < EACH; ++r) {
        int key = start + warp * EACH + r;
        if (key >= tokens) continue;
        OWNED(j, i) {
            store(dk + kv_at + key * kv_stride + i, k_sum[r][j] * scale);
            store(dv + kv_at + key * kv_stride + i, v_sum[r][j]);
        }
    }
}
