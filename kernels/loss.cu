// Losses of rows of logits. Cross-entropy: l = log sum exp(x) - x[target]; slopes = weight (softmax(x) - onehot(target)).
#include "common.cuh"

#define WARPS 32

// log sum exp(x inverse) of a row, in one sweep: each thread keeps its maximum and the sum relative to it.
__device__ inline float log_sum(const float* x, int vocab, float inverse, float* shared) {
    float most = MINUS_INFINITY, sum = 0;
    for (int i = threadIdx.x; i < vocab; i += blockDim.x) {
        float value = x[i] * inverse;
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
    float total = log_sum(logits, vocab, 1.0f, shared);
    if (threadIdx.x == 0) losses[blockIdx.x] = total - logits[targets[blockIdx.x]];
}

// The slopes take the place of the logits: row r of them begins where row r of the logits did, as T, so that bf16 slopes
// lie `2 vocab` apart. Each value is written where logits have been read already: chunks are read whole before.
KERNEL cross_entropy(float* losses, float* logits, const int* targets, const float* weights, int vocab) {
    __shared__ float shared[WARPS];
    logits += (Index)blockIdx.x * vocab;
    T* slopes = (T*)logits;
    int target = targets[blockIdx.x];
    float total = log_sum(logits, vocab, 1.0f, shared), weight = weights[blockIdx.x];
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

#define FORWARD 0 // sum p log(p / q)
#define REVERSE 1 // sum q log(q / p)
#define BETWEEN 2 // beta sum p log(p / m) + (1 - beta) sum q log(q / m), m = beta p + (1 - beta) q

// One outcome's part of a divergence, and a = q dD/dq but for a constant: the gradient with respect to q's logits is
// a_i - q_i sum a. As the CPU's rows.rs.
__device__ inline float2 outcome(int kind, float beta, float log_p, float log_q) {
    float p = expf(log_p), q = expf(log_q);
    if (kind == FORWARD) return make_float2(p * (log_p - log_q), -p);
    if (kind == REVERSE) return make_float2(q * (log_q - log_p), q * (log_q - log_p));
    float log_m = logf(fmaxf(beta * p + (1.0f - beta) * q, 1.17549435e-38f));
    float of_q = (1.0f - beta) * q * (log_q - log_m);
    return make_float2(beta * p * (log_p - log_m) + of_q, of_q);
}

// Cross-entropy with label smoothing, and the divergence from the teacher's predictions at a temperature, `inverse` one divided
// by it: losses [rows, 2]. Slopes of `ce` times the one and `kl` times the other, with respect to logits and logits / T, lie as
// cross_entropy's. `teacher` may be null; a target below 0 is not learnt.
KERNEL predictions(float* losses, float* logits, const float* teacher, const int* targets, int vocab, float ce, float smoothing,
                   float kl, float inverse, int kind, float beta) {
    __shared__ float shared[WARPS];
    logits += (Index)blockIdx.x * vocab;
    losses += 2 * (Index)blockIdx.x;
    if (teacher) teacher += (Index)blockIdx.x * vocab;
    T* slopes = (T*)logits;
    int target = targets[blockIdx.x];
    if (target < 0) {
        for (int i = threadIdx.x; i < vocab; i += blockDim.x) store(slopes + i, 0.0f);
        if (threadIdx.x < 2) losses[threadIdx.x] = 0.0f;
        return;
    }
    float total = log_sum(logits, vocab, 1.0f, shared), mean = 0.0f;
    if (smoothing > 0.0f) {
        for (int i = threadIdx.x; i < vocab; i += blockDim.x) mean += logits[i];
        mean = block_sum(mean, shared) / vocab;
    }
    float log_p = 0.0f, log_q = 0.0f, apart = 0.0f, all = 0.0f;
    if (teacher) {
        log_p = log_sum(teacher, vocab, inverse, shared);
        log_q = log_sum(logits, vocab, inverse, shared);
        for (int i = threadIdx.x; i < vocab; i += blockDim.x) {
            float2 part = outcome(kind, beta, teacher[i] * inverse - log_p, logits[i] * inverse - log_q);
            apart += part.x, all += part.y;
        }
        apart = block_sum(apart, shared);
        all = block_sum(all, shared);
    }
    if (threadIdx.x == 0) {
        losses[0] = (1.0f - smoothing) * (total - logits[target]) + smoothing * (total - mean);
        losses[1] = apart;
    }
    __syncthreads();
    for (int start = 0; start < vocab; start += blockDim.x) {
        int i = start + threadIdx.x;
        float x = i < vocab ? logits[i] : 0.0f, slope = 0.0f;
        __syncthreads();
        if (i < vocab) {
            if (ce != 0.0f) slope = ce * (expf(x - total) - (i == target ? 1.0f - smoothing : 0.0f) - smoothing / vocab);
            if (teacher) {
                float log = x * inverse - log_q;
                slope += kl * (outcome(kind, beta, teacher[i] * inverse - log_p, log).y - expf(log) * all);
            }
            store(slopes + i, slope);
        }
        __syncthreads();
    }
}
