// Gates of the MLP: h = act(gate) up, or act(gate) alone where `up` is null. Sources: arXiv:2002.05202, arXiv:1606.08415.
#include "common.cuh"

#define SILU 0      // x sigma(x)
#define GELU 1      // x Phi(x), by erf
#define GELU_TANH 2 // x (1 + tanh(a (x + 0.044715 x^3))) / 2, a = sqrt(2 / pi)

// (act(x), act'(x))
__device__ inline float2 activation(float x, int kind) {
    if (kind == SILU) {
        float s = inverse_near(1.0f + exp2_near(-1.44269504f * x)); // few instructions: memory waits for none
        return make_float2(x * s, s * (1.0f + x * (1.0f - s)));
    }
    if (kind == GELU) {
        float below = 0.5f * (1.0f + erff(x * 0.70710678f));
        return make_float2(x * below, below + x * 0.39894228f * expf(-0.5f * x * x));
    }
    float t = tanhf(0.79788456f * (x + 0.044715f * x * x * x));
    float slope = 0.79788456f * (1.0f + 3.0f * 0.044715f * x * x) * (1.0f - t * t);
    return make_float2(0.5f * x * (1.0f + t), 0.5f * (1.0f + t) + 0.5f * x * slope);
}

// A thread takes AT_ONCE values.
KERNEL gate(T* h, const T* gate, const T* up, Index n, int kind) {
    Index i = ((Index)blockIdx.x * blockDim.x + threadIdx.x) * AT_ONCE, left = n - i;
    if (left <= 0) return;
    Values x = load_each(gate + i, left), times;
    if (up) times = load_each(up + i, left);
    UNROLL for (int j = 0; j < AT_ONCE; ++j) {
        float act = activation(x.at[j], kind).x;
        x.at[j] = up ? act * times.at[j] : act;
    }
    store_each(h + i, x, left);
}

// dgate = dh up act'(gate), dup = dh act(gate)
KERNEL gate_backward(T* dgate, T* dup, const T* gate, const T* up, const T* dh, Index n, int kind) {
    Index i = ((Index)blockIdx.x * blockDim.x + threadIdx.x) * AT_ONCE, left = n - i;
    if (left <= 0) return;
    Values x = load_each(gate + i, left), slope = load_each(dh + i, left), times;
    if (up) times = load_each(up + i, left);
    UNROLL for (int j = 0; j < AT_ONCE; ++j) {
        float2 act = activation(x.at[j], kind);
        x.at[j] = slope.at[j] * act.y * (up ? times.at[j] : 1.0f);
        slope.at[j] *= act.x;
    }
    store_each(dgate + i, x, left);
    if (up) store_each(dup + i, slope, left);
}
