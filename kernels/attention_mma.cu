// The forward of attention on tensor cores. A warp owns SETS times 16 queries: each operand of keys and values that it reads
// from shared memory is used that often, as shared memory is what else it would wait for. Tiles that all of a warp's queries
// see take no mask, and a warp skips those that none of them sees. Bound by mma.
#define WARPS 4
#define SETS (D_HEAD <= 128 ? 2 : 1) // so that the outputs' sums fit in registers
#define KEYS (D_HEAD <= 128 ? 48 : 32) // of a tile: all takes less than the 99 KiB that some architectures have
#define THREADS (32 * WARPS)
#define OWN (16 * SETS) // queries of a warp
#define ROWS (WARPS * OWN)
#include "attention_mma.cuh"

// Rows of a result lie in quads of lanes.
__device__ inline float quad_sum(float x) {
    x += __shfl_xor_sync(0xffffffffu, x, 1);
    return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

__device__ inline float quad_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
    return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}

// Products of a warp's queries and a tile's keys: [m][n] are queries 16 m.. and keys 8 n...
typedef float Scores[SETS][KEYS / 8][4];

__device__ inline void score(Scores s, const bf16* queries, const bf16* keys) {
    const bf16 *own = row_of_a(queries), *other = row_of_b(keys);
    UNROLL for (int step = 0; step < STEPS; ++step) {
        unsigned a[SETS][4];
        UNROLL for (int m = 0; m < SETS; ++m) load_matrices<false>(a[m], own + 16 * (m * PITCH + step));
        UNROLL for (int c = 0; c < KEYS / 16; ++c) {
            unsigned b[4];
            load_matrices<false>(b, other + 16 * (c * PITCH + step));
            UNROLL for (int m = 0; m < SETS; ++m) multiply(s[m] + 2 * c, a[m], b);
        }
    }
}

// What is kept of each query: the largest score so far, the sum of weights relative to it, and the sum of values by weight.
struct Kept {
    float most[2 * SETS], sum[2 * SETS]; // [2 m + half] is query 16 m + g + 8 half
    Row16 o[SETS];
};

// Scores become weights: exp(scale (s - most)). By ex2.approx, to 2 units in the last place, which bf16 does not show.
// Where no query of the warp has found a larger score, what is kept stays as it is: mostly, after some tiles.
__device__ inline void weigh(Kept& kept, Scores s, float scale) {
    float shrink[2 * SETS];
    bool same = true;
    UNROLL for (int r = 0; r < 2 * SETS; ++r) {
        int m = r / 2, half = r % 2;
        float top = kept.most[r];
        UNROLL for (int i = 0; i < KEYS / 4; ++i) top = fmaxf(top, s[m][i / 2][2 * half + i % 2]);
        top = quad_max(top);
        float base = top == MINUS_INFINITY ? 0.0f : top; // nothing seen yet: all weights are 0
        shrink[r] = exp2_near((kept.most[r] - base) * scale); // of a difference, which is exactly 0 where none is larger
        same = same && shrink[r] == 1.0f;
        kept.most[r] = top;
        float sum = kept.sum[r] * shrink[r];
        UNROLL for (int i = 0; i < KEYS / 4; ++i) {
            float& x = s[m][i / 2][2 * half + i % 2];
            x = exp2_near(x * scale - base * scale);
            sum += x;
        }
        kept.sum[r] = sum;
    }
    if (__all_sync(0xffffffffu, same)) return;
    UNROLL for (int r = 0; r < 2 * SETS; ++r) {
        UNROLL for (int i = 0; i < 4 * STEPS; ++i) kept.o[r / 2][i / 2][2 * (r % 2) + i % 2] *= shrink[r];
    }
}

__device__ inline void add_values(Kept& kept, const Scores s, const bf16* values) {
    const bf16* row = row_of_transposed(values);
    UNROLL for (int c = 0; c < KEYS / 16; ++c) {
        unsigned a[SETS][4];
        UNROLL for (int m = 0; m < SETS; ++m) as_operand(a[m], s[m] + 2 * c);
        UNROLL for (int n = 0; n < STEPS; ++n) {
            unsigned b[4];
            load_matrices<true>(b, row + 16 * (c * PITCH + n));
            UNROLL for (int m = 0; m < SETS; ++m) multiply(kept.o[m] + 2 * n, a[m], b);
        }
    }
}

// Grid (tiles of queries, heads, sequences); the last queries see most, and begin.
KERNEL attention(T* out, float* log_sums, const T* q, const T* k, const T* v, const int* kv_of, const int* first, int tokens,
                 int heads, int kv_heads, int window, float scale) {
    DYNAMIC_SHARED(memory);
    bf16 *queries = (bf16*)memory, *ring = queries + ROWS * PITCH; // [2] of keys and values
    int start = (gridDim.x - 1 - blockIdx.x) * ROWS, head = blockIdx.y, sequence = blockIdx.z;
    Shape shape = {tokens, heads, kv_heads, window, scale, of_sequence(first, sequence, tokens)};
    int lane = threadIdx.x % 32, rows = threadIdx.x / 32 * OWN, own = start + rows;
    int stride = heads * D_HEAD, kv_stride = kv_heads * D_HEAD;
    Index at = (Index)sequence * tokens * stride + head * D_HEAD;
    Index kv_at = (Index)sequence * tokens * kv_stride + kv_of[head] * D_HEAD;
    auto fetch_tile = [&](int tile, int turn) {
        bf16* to = ring + turn * 2 * KEYS * PITCH;
        fetch<KEYS>(to, k + kv_at, tile, tokens, kv_stride);
        fetch<KEYS>(to + KEYS * PITCH, v + kv_at, tile, tokens, kv_stride);
    };
    int tile = first_key(shape, start) / KEYS * KEYS, end = end_key(shape, start, ROWS);
    fetch<ROWS>(queries, q + at, start, tokens, stride);
    fetch_tile(tile, 0);
    Kept kept = {};
    UNROLL for (int r = 0; r < 2 * SETS; ++r) kept.most[r] = MINUS_INFINITY;
    for (int turn = 0; tile < end; tile += KEYS, turn ^= 1) {
        wait_async();
        __syncthreads(); // the tile has come, and the one before it is done with
        if (tile + KEYS < end) fetch_tile(tile + KEYS, turn ^ 1);
        if (none_sees(shape, own, OWN, tile, KEYS)) continue;
        const bf16* keys = ring + turn * 2 * KEYS * PITCH;
        Scores s = {};
        score(s, queries + rows * PITCH, keys);
        if (!all_see(shape, own, OWN, tile, KEYS)) {
            UNROLL for (int r = 0; r < 2 * SETS; ++r) {
                Span seen = span_of(shape, own + lane / 4 + 8 * r);
                UNROLL for (int i = 0; i < KEYS / 4; ++i) {
                    int key = tile + i / 2 * 8 + lane % 4 * 2 + i % 2;
                    float& x = s[r / 2][i / 2][2 * (r % 2) + i % 2];
                    x = key >= seen.from && key <= seen.to ? x : MINUS_INFINITY;
                }
            }
        }
        weigh(kept, s, scale * LOG2_E);
        add_values(kept, s, keys + KEYS * PITCH);
    }
    UNROLL for (int m = 0; m < SETS; ++m) {
        float inverse[2];
        UNROLL for (int half = 0; half < 2; ++half) {
            float total = quad_sum(kept.sum[2 * m + half]);
            int query = own + 16 * m + lane / 4 + 8 * half;
            inverse[half] = 1.0f / total;
            if (lane % 4 == 0 && query < tokens) {
                log_sums[((Index)sequence * heads + head) * tokens + query] = kept.most[2 * m + half] * scale + logf(total);
            }
        }
        put(out + at, kept.o[m], own + 16 * m, tokens, stride, inverse);
    }
}
