// What attention on tensor cores (mma.m16n8k16) is made of: bf16 values, sums in f32, heads of whole 16s.
//
// A warp owns rows in whole 16s: `a` operands. The other side lies in shared memory in rows, and is read as it is (scores: both
// sides along d) or transposed (outputs: sums over rows). Weights go from a result's registers to an operand's without
// leaving them: the layouts agree. Tiles of the other side come in a ring of two: while one is worked on, the next is on
// its way. All turns are unrolled: what they count stays in registers. Sources: arXiv:2205.14135, arXiv:2307.08691.
// A source says how many THREADS a block has, and includes this.
#pragma once
#include "attention.cuh"

#define STEPS (D_HEAD / 16)
#define PITCH (D_HEAD + 8) // 16 bytes more: rows start in different banks
#define LOG2_E 1.44269504f

// What a lane has of a result of 16 rows and all columns of a head: [n] is of columns 8 n...
typedef float Row16[2 * STEPS][4];

// Rows [first, first + rows) of one head on their way to shared memory, 0 beyond `tokens`.
template <int rows>
__device__ inline void fetch(bf16* to, const bf16* from, int first, int tokens, int stride) {
    const int all = rows * (D_HEAD / 8), turns = (all + THREADS - 1) / THREADS;
    UNROLL for (int turn = 0; turn < turns; ++turn) {
        int i = threadIdx.x + turn * THREADS, row = i / (D_HEAD / 8), column = i % (D_HEAD / 8) * 8;
        if (all % THREADS != 0 && i >= all) break;
        copy_async<16>(to + row * PITCH + column, from + (Index)(first + row) * stride + column, first + row < tokens);
    }
}

// Where the lane finds its row of 16 rows of shared memory, for `a` operands; as `b` operands, read as they are, and
// transposed.
__device__ inline const bf16* row_of_a(const bf16* tile) {
    int lane = threadIdx.x % 32;
    return tile + lane % 16 * PITCH + lane / 16 * 8;
}
__device__ inline const bf16* row_of_b(const bf16* tile) {
    int lane = threadIdx.x % 32;
    return tile + (lane / 16 * 8 + lane % 8) * PITCH + lane / 8 % 2 * 8;
}
__device__ inline const bf16* row_of_transposed(const bf16* tile) {
    int lane = threadIdx.x % 32;
    return tile + (lane / 8 % 2 * 8 + lane % 8) * PITCH + lane / 16 * 8;
}

// 16 rows of shared memory as operands.
__device__ inline void own_rows(unsigned a[STEPS][4], const bf16* tile) {
    const bf16* row = row_of_a(tile);
    UNROLL for (int s = 0; s < STEPS; ++s) load_matrices<false>(a[s], row + 16 * s);
}

// c += a b, b 16 columns wide.
__device__ inline void multiply(float c[2][4], const unsigned a[4], const unsigned b[4]) {
    mma(c[0], a, b[0], b[1]);
    mma(c[1], a, b[2], b[3]);
}

// A result of 16 x 16 as an operand.
__device__ inline void as_operand(unsigned a[4], const float c[2][4]) {
    a[0] = pack(c[0][0], c[0][1]);
    a[1] = pack(c[0][2], c[0][3]);
    a[2] = pack(c[1][0], c[1][1]);
    a[3] = pack(c[1][2], c[1][3]);
}

// Writes the warp's 16 rows, times `factor` for its row g and g + 8; `row` is the first one's number.
__device__ inline void put(bf16* to, const Row16 o, int row, int tokens, int stride, const float factor[2]) {
    int lane = threadIdx.x % 32;
    UNROLL for (int half = 0; half < 2; ++half) {
        int at = row + lane / 4 + 8 * half;
        if (at >= tokens) continue;
        UNROLL for (int n = 0; n < 2 * STEPS; ++n) {
            unsigned pair = pack(o[n][2 * half] * factor[half], o[n][2 * half + 1] * factor[half]);
            *(unsigned*)(to + (Index)at * stride + 8 * n + lane % 4 * 2) = pair;
        }
    }
}
