// The backward of attention on tensor cores: one kernel for dq, one for dk and dv, so that each sum has one owner. A warp owns
// 16 rows, its side of both products in registers (they spill beyond heads of 128). Tiles that all of a warp's rows see take
// no mask, and a warp skips those that none of them sees. Bound by shared memory: 24 reads of four matrices for 48 mma, 32
// for 64.
#define WARPS (D_HEAD <= 128 ? 8 : 4) // one block of 8 holds all registers there are, and reads the other side once
#define TILE (D_HEAD <= 128 ? 64 : 32) // rows of the other side
#define THREADS (32 * WARPS)
#define ROWS (16 * WARPS)
#include "attention_mma.cuh"

static_assert(ROWS <= 2 * TILE, "the block's own rows come by way of the ring");

// A warp's 16 rows of two arrays as operands.
struct Own {
    unsigned a[STEPS][4], b[STEPS][4];
};

// They come by way of the ring.
__device__ inline void fetch_own(Own& own, bf16* ring, const bf16* a, const bf16* b, int start, int tokens, int stride) {
    fetch<ROWS>(ring, a, start, tokens, stride);
    fetch<ROWS>(ring + ROWS * PITCH, b, start, tokens, stride);
    wait_async();
    __syncthreads();
    int rows = threadIdx.x / 32 * 16;
    own_rows(own.a, ring + rows * PITCH);
    own_rows(own.b, ring + (ROWS + rows) * PITCH);
    __syncthreads();
}

// Products of the warp's rows and 16 rows of each of two tiles.
__device__ inline void products(float c[2][4], float d[2][4], const Own& own, const bf16* tile, const bf16* other) {
    const bf16 *row = row_of_b(tile), *also = row_of_b(other);
    UNROLL for (int s = 0; s < STEPS; ++s) {
        unsigned x[4], y[4];
        load_matrices<false>(x, row + 16 * s);
        load_matrices<false>(y, also + 16 * s);
        multiply(c, own.a[s], x);
        multiply(d, own.b[s], y);
    }
}

// o += a tile, for 16 rows of the tile.
__device__ inline void add_rows(Row16 o, const unsigned a[4], const bf16* tile) {
    const bf16* row = row_of_transposed(tile);
    UNROLL for (int n = 0; n < STEPS; ++n) {
        unsigned b[4];
        load_matrices<true>(b, row + 16 * n);
        multiply(o + 2 * n, a, b);
    }
}

// What a warp has of its queries; [half] is row g + 8 half.
struct Queries {
    Own own; // queries, and the slopes of what they gave
    float log_sum[2], pull[2];
    Row16 sum;
};

// Adds what a tile of keys, followed by their values, gives. With `masked` some are not seen; `query` is the lane's first.
template <bool masked>
__device__ inline void add_keys(Queries& mine, const bf16* keys, int tile, Shape shape, int query) {
    const bf16* values = keys + TILE * PITCH;
    Span seen[2];
    if (masked) seen[0] = span_of(shape, query), seen[1] = span_of(shape, query + 8);
    UNROLL for (int c = 0; c < TILE / 16; ++c) {
        float p[2][4] = {}, ds[2][4] = {};
        products(p, ds, mine.own, keys + 16 * c * PITCH, values + 16 * c * PITCH);
        UNROLL for (int i = 0; i < 8; ++i) {
            float &x = p[i / 4][i % 4], &slope = ds[i / 4][i % 4];
            int half = i % 4 / 2, key = tile + 16 * c + i / 4 * 8 + threadIdx.x % 4 * 2 + i % 2;
            if (masked) x = key >= seen[half].from && key <= seen[half].to ? x : MINUS_INFINITY;
            slope = exp2_near(x * (shape.scale * LOG2_E) - mine.log_sum[half]) * (slope - mine.pull[half]);
        }
        unsigned a[4];
        as_operand(a, ds);
        add_rows(mine.sum, a, keys + 16 * c * PITCH);
    }
}

// dq = scale dS k, dS = p (do v - along). Grid as the forward.
KERNEL attention_dq(T* dq, const T* q, const T* k, const T* v, const T* dout, const float* log_sums, const float* along,
                    const int* kv_of, const int* first, int tokens, int heads, int kv_heads, int window, float scale) {
    DYNAMIC_SHARED(memory);
    bf16* ring = (bf16*)memory; // [2] of keys and values
    int start = (gridDim.x - 1 - blockIdx.x) * ROWS, head = blockIdx.y, sequence = blockIdx.z;
    Shape shape = {tokens, heads, kv_heads, window, scale, of_sequence(first, sequence, tokens)};
    int rows = start + threadIdx.x / 32 * 16, query = rows + threadIdx.x % 32 / 4;
    int stride = heads * D_HEAD, kv_stride = kv_heads * D_HEAD;
    Index at = (Index)sequence * tokens * stride + head * D_HEAD, sums_at = ((Index)sequence * heads + head) * tokens;
    Index kv_at = (Index)sequence * tokens * kv_stride + kv_of[head] * D_HEAD;
    auto fetch_tile = [&](int tile, int turn) {
        bf16* to = ring + turn * 2 * TILE * PITCH;
        fetch<TILE>(to, k + kv_at, tile, tokens, kv_stride);
        fetch<TILE>(to + TILE * PITCH, v + kv_at, tile, tokens, kv_stride);
    };
    Queries mine = {};
    fetch_own(mine.own, ring, q + at, dout + at, start, tokens, stride);
    int tile = first_key(shape, start) / TILE * TILE, end = end_key(shape, start, ROWS);
    fetch_tile(tile, 0);
    UNROLL for (int half = 0; half < 2; ++half) {
        if (query + 8 * half >= tokens) continue;
        mine.log_sum[half] = log_sums[sums_at + query + 8 * half] * LOG2_E;
        mine.pull[half] = along[sums_at + query + 8 * half];
    }
    for (int turn = 0; tile < end; tile += TILE, turn ^= 1) {
        wait_async();
        __syncthreads(); // the tile has come, and the one before it is done with
        if (tile + TILE < end) fetch_tile(tile + TILE, turn ^ 1);
        if (none_sees(shape, rows, 16, tile, TILE)) continue;
        const bf16* keys = ring + turn * 2 * TILE * PITCH;
        if (all_see(shape, rows, 16, tile, TILE)) add_keys<false>(mine, keys, tile, shape, query);
        else add_keys<true>(mine, keys, tile, shape, query);
    }
    const float factor[2] = {scale, scale};
    put(dq + at, mine.sum, rows, tokens, stride, factor);
}

// What a warp has of its keys.
struct Keys {
    Own own; // keys and values
    Row16 k_sum, v_sum;
};

// Adds what a tile of queries, followed by their slopes, gives. `sums` are its log-sums, followed by what lies along; `key` is
// the lane's first.
template <bool masked>
__device__ inline void add_queries(Keys& mine, const bf16* queries, const float* sums, int tile, Shape shape, int key) {
    const bf16* slopes = queries + TILE * PITCH;
    UNROLL for (int c = 0; c < TILE / 16; ++c) {
        float p[2][4] = {}, ds[2][4] = {};
        products(p, ds, mine.own, queries + 16 * c * PITCH, slopes + 16 * c * PITCH);
        UNROLL for (int j = 0; j < 4; ++j) { // columns of the lane: queries
            int query = 16 * c + j / 2 * 8 + threadIdx.x % 4 * 2 + j % 2;
            float log_sum = sums[query] * LOG2_E, pull = sums[TILE + query];
            Span seen;
            if (masked) seen = span_of(shape, tile + query);
            UNROLL for (int half = 0; half < 2; ++half) {
                float &x = p[j / 2][2 * half + j % 2], &slope = ds[j / 2][2 * half + j % 2];
                if (masked) x = key + 8 * half >= seen.from && key + 8 * half <= seen.to ? x : MINUS_INFINITY;
                x = exp2_near(x * (shape.scale * LOG2_E) - log_sum);
                slope = x * (slope - pull);
            }
        }
        unsigned a[4];
        as_operand(a, p);
        add_rows(mine.v_sum, a, slopes + 16 * c * PITCH);
        as_operand(a, ds);
        add_rows(mine.k_sum, a, queries + 16 * c * PITCH);
    }
}

// The next head from `head` on that reads the KV head `kv`.
__device__ inline int reader(const int* kv_of, int head, int heads, int kv) {
    while (head < heads && kv_of[head] != kv) ++head;
    return head;
}

// dk = scale sum dS q, dv = sum p do over all queries of all heads that read this KV head, in order; rows are keys. Queries
// beyond the last are zeros, as are their slopes: they add nothing. Grid (tiles of keys, KV heads, sequences).
KERNEL attention_dkv(T* dk, T* dv, const T* q, const T* k, const T* v, const T* dout, const float* log_sums,
                     const float* along, const int* kv_of, const int* first, int tokens, int heads, int kv_heads, int window,
                     float scale) {
    DYNAMIC_SHARED(memory);
    bf16* ring = (bf16*)memory;                      // [2] of queries and slopes
    float* sums = (float*)(ring + 4 * TILE * PITCH); // [2] of log-sums and of what lies along
    int start = blockIdx.x * ROWS, kv = blockIdx.y, sequence = blockIdx.z;
    Shape shape = {tokens, heads, kv_heads, window, scale, of_sequence(first, sequence, tokens)};
    int rows = start + threadIdx.x / 32 * 16, key = rows + threadIdx.x % 32 / 4;
    int stride = heads * D_HEAD, kv_stride = kv_heads * D_HEAD;
    Index kv_at = (Index)sequence * tokens * kv_stride + kv * D_HEAD;
    auto fetch_tile = [&](int head, int tile, int turn) {
        bf16* to = ring + turn * 2 * TILE * PITCH;
        Index at = (Index)sequence * tokens * stride + head * D_HEAD, sums_at = ((Index)sequence * heads + head) * tokens;
        fetch<TILE>(to, q + at, tile, tokens, stride);
        fetch<TILE>(to + TILE * PITCH, dout + at, tile, tokens, stride);
        if (threadIdx.x < 2 * TILE) {
            static_assert(2 * TILE <= THREADS, "one turn");
            int i = threadIdx.x, query = tile + i % TILE;
            copy_async<4>(sums + turn * 2 * TILE + i, (i < TILE ? log_sums : along) + sums_at + query, query < tokens);
        }
    };
    Keys mine = {};
    fetch_own(mine.own, ring, k + kv_at, v + kv_at, start, tokens, kv_stride);
    int begin = first_query(shape, start) / TILE * TILE, end = end_query(shape, start, ROWS);
    int head = reader(kv_of, 0, heads, kv), tile = begin;
    if (head < heads) fetch_tile(head, tile, 0);
    for (int turn = 0; head < heads; turn ^= 1) {
        int now = tile;
        tile += TILE;
        if (tile >= end) tile = begin, head = reader(kv_of, head + 1, heads, kv);
        wait_async();
        __syncthreads(); // the tile has come, and the one before it is done with
        if (head < heads) fetch_tile(head, tile, turn ^ 1);
        if (none_sees(shape, now, TILE, rows, 16)) continue;
        const bf16* queries = ring + turn * 2 * TILE * PITCH;
        const float* of = sums + turn * 2 * TILE;
        if (window == 0 || all_see(shape, now, TILE, rows, 16)) add_queries<false>(mine, queries, of, now, shape, key);
        else add_queries<true>(mine, queries, of, now, shape, key);
    }
    const float one[2] = {1.0f, 1.0f}, factor[2] = {scale, scale};
    put(dv + kv_at, mine.v_sum, rows, tokens, kv_stride, one);
    put(dk + kv_at, mine.k_sum, rows, tokens, kv_stride, factor);
}
