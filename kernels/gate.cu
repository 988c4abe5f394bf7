// Gates of the MLP: h = act(gate) up, or act(gate) alone where `up` is null. Sources: arXiv:2002.05202, arXiv:1606.08415.
#include "common.cuh"

#define SILU 0      // x sigma(x)
#define GELU 1      // x Phi(x), by erf
#define GELU_TANH 2 // x (1 + tanh(a (x + 0.044715 x^3))) / 2, a = sqrt(2 / pi)

// (act(x), act'(x))
__device__ inline float2 activation(float x, int kind) {
    if (kind == SILU) {
        float s = 1.0f / (1.0f + expf(-x));
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

KERNEL gate(T* h, const T* gate, const T* up, Index n, int kind) {
    Index i = (Index)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    float act = activation(load(gate + i), kind).x;
    store(h + i, up ? act * load(up + i) : act);
}

// dgate = dh up act'(gate), dup = dh act(gate)
KERNEL gate_backward(T* dgate, T* dup, const T* gate, const T* up, const T* dh, Index n, int kind) {
    Index i = (Index)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    float2 act = activation(load(gate + i), kind);
    float slope = load(dh + i);
    store(dgate + i, slope * act.y * (up ? load(up + i) : 1.0f));
    if (up) store(dup + i, slope * act.x);
}
