// Kernels with one fault each, which the emulation has to find. Not part of kernels/.
#include <device.cuh>

// Reads what its neighbour writes, without waiting for it.
KERNEL missing_barrier(float* out) {
    __shared__ float shared[64];
    shared[threadIdx.x] = threadIdx.x;
    out[threadIdx.x] = shared[(threadIdx.x + 1) % 64];
}

KERNEL parted(float* out) {
    if (threadIdx.x < 32) __syncthreads();
    out[threadIdx.x] = 0;
}

KERNEL two_collectives(float* out) {
    float x = threadIdx.x % 2 ? __shfl_xor_sync(0xffffffffu, 1.0f, 1) : __shfl_sync(0xffffffffu, 1.0f, 0);
    out[threadIdx.x] = x;
}

KERNEL beyond(float* out) { out[threadIdx.x + 1] = 0; }

KERNEL beyond_shared(float* out) {
    DYNAMIC_SHARED(memory);
    ((float*)memory)[threadIdx.x + 1] = 0;
    out[threadIdx.x] = 0;
}

// Not a fault by itself: what was never written is NaN.
KERNEL unwritten(float* out) {
    __shared__ float shared[64];
    if (threadIdx.x > 0) shared[threadIdx.x] = 1;
    __syncthreads();
    out[threadIdx.x] = shared[threadIdx.x];
}

// Nor is this, without a wait: what is on its way is NaN.
KERNEL too_early(float* out) {
    __shared__ float shared[64];
    out[threadIdx.x] = 1;
    copy_async<4>(shared + threadIdx.x, out + threadIdx.x, true);
    if (threadIdx.x > 0) wait_async();
    out[threadIdx.x] = shared[threadIdx.x];
}

// Each block reads what the one before has written, or not yet.
KERNEL across_blocks(float* out) { out[blockIdx.x] = blockIdx.x == 0 ? 0.0f : out[blockIdx.x - 1]; }
