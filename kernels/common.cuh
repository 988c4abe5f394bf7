// What all kernels share: the type of stored values, sums over a warp and over a block.
//
// Sums have one order for a given shape: no atomics, so the same input gives the same bits.
#pragma once
#include <device.cuh>

#ifdef STORAGE_BF16
typedef bf16 T;
#else
typedef float T;
#endif

typedef long long Index; // of values: rows times columns can pass 2^31

#define MINUS_INFINITY (__int_as_float(0xff800000))

__device__ inline float load(const float* p) { return *p; }
__device__ inline float load(const bf16* p) { return __uint_as_float((unsigned)p->bits << 16); }
__device__ inline void store(float* p, float x) { *p = x; }
__device__ inline void store(bf16* p, float x) { *p = to_bf16(x); }

template <class F>
__device__ inline F warp_sum(F x) {
    for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
    return x;
}

__device__ inline float warp_max(float x) {
    for (int step = 16; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, step));
    return x;
}

// Sum over the block, in every thread; `shared` has room for one value a warp. Blocks are whole warps.
template <class F>
__device__ inline F block_sum(F x, F* shared) {
    x = warp_sum(x);
    __syncthreads(); // the last use of `shared` is over
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = x;
    __syncthreads();
    x = 0;
    for (int warp = 0; warp < (int)blockDim.x / 32; ++warp) x += shared[warp];
    return x;
}

// As block_sum.
__device__ inline float block_max(float x, float* shared) {
    x = warp_max(x);
    __syncthreads();
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = x;
    __syncthreads();
    x = shared[0];
    for (int warp = 1; warp < (int)blockDim.x / 32; ++warp) x = fmaxf(x, shared[warp]);
    return x;
}
