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

// Value `i` of 16 bytes, and 16 bytes of values, of the pointer's type.
__device__ inline float of_words(const unsigned words[4], int i, const float*) { return __uint_as_float(words[i]); }
__device__ inline float of_words(const unsigned words[4], int i, const bf16*) {
    return __uint_as_float(i % 2 ? words[i / 2] & 0xffff0000u : words[i / 2] << 16);
}
__device__ inline uint4 to_words(const float* x, const float*) {
    return make_uint4(__float_as_uint(x[0]), __float_as_uint(x[1]), __float_as_uint(x[2]), __float_as_uint(x[3]));
}
__device__ inline uint4 to_words(const float* x, const bf16*) {
    return make_uint4(pack(x[0], x[1]), pack(x[2], x[3]), pack(x[4], x[5]), pack(x[6], x[7]));
}

// Memory moves fastest 16 bytes at a time: values that a thread takes at once.
#define AT_ONCE (16 / (int)sizeof(T))
struct Values {
    float at[AT_ONCE];
};

__device__ inline bool aligned(const void* p) { return (unsigned long long)p % 16 == 0; }

// The first `n` values from p on, at most AT_ONCE, and 0 for the rest. Any `n` and any address will do. Tables and gradients
// are f32 whatever T is, and take two loads where T is bf16.
template <class V>
__device__ inline Values load_each(const V* p, Index n) {
    const int wide = 16 / (int)sizeof(V);
    Values x;
    if (n >= AT_ONCE && aligned(p)) {
        UNROLL for (int first = 0; first < AT_ONCE; first += wide) {
            uint4 bytes = *(const uint4*)(p + first);
            unsigned words[4] = {bytes.x, bytes.y, bytes.z, bytes.w};
            UNROLL for (int i = 0; i < wide; ++i) x.at[first + i] = of_words(words, i, p);
        }
    } else {
        UNROLL for (int i = 0; i < AT_ONCE; ++i) x.at[i] = i < n ? load(p + i) : 0.0f;
    }
    return x;
}

__device__ inline void store_each(T* p, const Values& x, Index n) {
    if (n >= AT_ONCE && aligned(p)) {
        *(uint4*)p = to_words(x.at, p);
    } else {
        UNROLL for (int i = 0; i < AT_ONCE; ++i) if (i < n) store(p + i, x.at[i]);
    }
}

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
