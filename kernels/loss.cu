// Cross-entropy of rows of logits: l = log sum exp(x) - x[target]; slopes = weight (softmax(x) - onehot(target)).
#include "common.cuh"

#define WARPS 32

// log sum exp of a row, in one sweep: each thread keeps its maximum and the sum relative to it.
__device__ inline float log_sum(const float* x, int vocab, float* shared) {
    float most = MINUS_INFINITY, sum = 0;
    for (int i = threadIdx.x; i < vocab; i += blockDim.x) {
        float value = x[i];
        if (value > most) {
            sum = sum * expf(most - value) + 1.0f;
            most = value;
        } else {
            sum += expf(value - most);
        }
    }
    float top = block_max(most, shared);
    // A thread without values has -inf, and contributes 0.
    sum = block_sum(most == MINUS_INFINITY ? 0.0f : sum * expf(most - top), shared);
    return top + logf(sum);
}

KERNEL token_losses(float* losses, const float* logits, const int* targets, int vocab) {
    __shared__ float shared[WARPS];
    logits += (Index)blockIdx.x * vocab;
    float total = log_sum(logits, vocab, shared);
    if (threadIdx.x == 0) losses[blockIdx.x] = total - logits[targets[blockIdx.x]];
}

// The slopes take the place of the logits: row r of them begins where row r of the logits did, as T, so that bf16 slopes
// lie `2 vocab` apart. Each value is written where logits have been read already: chunks are read whole before.
KERNEL cross_entropy(float* losses, float* logits, const int* targets, const float* weights, int vocab) {
    __shared__ float shared[WARPS];
    logits += (Index)blockIdx.x * vocab;
    T* slopes = (T*)logits;
    int target = targets[blockIdx.x];
    float total = log_sum(logits, vocab, shared), weight = weights[blockIdx.x];
    if (threadIdx.x == 0) losses[blockIdx.x] = total - logits[target];
    __syncthreads();
    for (int start = 0; start < vocab; start += blockDim.x) {
        int i = start + threadIdx.x;
        float x = i < vocab ? logits[i] : 0.0f;
        __syncthreads();
        if (i < vocab) store(slopes + i, weight * (expf(x - total) - (i == target ? 1.0f : 0.0f)));
        __syncthreads();
    }
}
