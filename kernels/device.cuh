// What the kernels take from the device alone. The tests put a file of the same name in its place and run the very same
// kernels on the host (crates/emulation/src/device.cuh), so this one is kept small.
#pragma once

#define KERNEL extern "C" __global__ void
#define UNROLL _Pragma("unroll")
#define DYNAMIC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]

struct bf16 {
    unsigned short bits;
};

// To the nearest, ties to even.
__device__ inline bf16 to_bf16(float x) {
    bf16 y;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
    return y;
}

// Two values as one register, `low` at the lower address.
__device__ inline unsigned pack(float low, float high) {
    unsigned y;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
    return y;
}

// c += a b, a [16, 16], b [16, 8], c [16, 8], spread over the warp. Lane l = 4 g + t holds of
// a: (g, 2t..) (g+8, 2t..) (g, 2t+8..) (g+8, 2t+8..); b: (2t.., g) (2t+8.., g); c: (g, 2t..) (g+8, 2t..).
// Source: PTX ISA, mma.m16n8k16.
__device__ inline void mma(float c[4], const unsigned a[4], unsigned b0, unsigned b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Four 8x8 matrices of bf16 from shared memory; lane l points to row l % 8 of matrix l / 8, 16 bytes aligned. Lane 4 g + t
// gets of each (g, 2t..), or with `transposed` (2t, g) and (2t + 1, g). Source: PTX ISA, ldmatrix.
template <bool transposed>
__device__ inline void load_matrices(unsigned r[4], const bf16* row) {
    unsigned address = (unsigned)__cvta_generic_to_shared(row);
    if (transposed) {
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                     : "r"(address)
                     : "memory");
    } else {
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                     : "r"(address)
                     : "memory");
    }
}

// `bytes` (4 or 16, both sides aligned to them) on their way to shared memory, or zeros where `inside` is false: then
// nothing is read. Source: PTX ISA, cp.async.
template <int bytes>
__device__ inline void copy_async(void* shared, const void* global, bool inside) {
    unsigned address = (unsigned)__cvta_generic_to_shared(shared);
    int count = inside ? bytes : 0;
    if (bytes == 16) { // past L1: another block reads it from L2
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(global), "r"(count) : "memory");
    } else {
        asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(address), "l"(global), "n"(bytes), "r"(count)
                     : "memory");
    }
}

// All that the thread has on its way has come; others see it after a barrier.
__device__ inline void wait_async() { asm volatile("cp.async.wait_all;" ::: "memory"); }

// 2^x, to 2 units in the last place; 0 at -inf.
__device__ inline float exp2_near(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// 1 / x, to one unit in the last place; 0 at infinity.
__device__ inline float inverse_near(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
