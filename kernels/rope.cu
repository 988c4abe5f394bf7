// Rotary position embedding in the half-split layout: (x_i, x_{i + half}) of each head is turned by its position's angle.
// Source: arXiv:2104.09864.
#include "common.cuh"

// One thread a pair. x [rows, heads * 2 half], tables [tokens, half]; row r is at position r % tokens. `turn` is 1
// forward and -1 back. In place.
KERNEL rope(T* x, const float* cosines, const float* sines, Index pairs, int heads, int half, int tokens,
            float turn) {
    Index pair = (Index)blockIdx.x * blockDim.x + threadIdx.x;
    if (pair >= pairs) return;
    int i = pair % half;
    Index head = pair / half; // counted over all rows
    Index table = head / heads % tokens * half + i, at = head * 2 * half + i;
    float c = cosines[table], s = sines[table] * turn;
    float low = load(x + at), high = load(x + at + half);
    store(x + at, low * c - high * s);
    store(x + at + half, high * c + low * s);
}
