// Rotary position embedding in the half-split layout: (x_i, x_{i + half}) of each head is turned by its position's angle.
// Source: arXiv:2104.09864. Memory bound.
#include "common.cuh"

// A thread turns AT_ONCE pairs of one head, of which there are `parts`. x [rows, heads * 2 half], tables [tokens, half]; row r is
// at position r % tokens. `turn` is 1 forward and -1 back. In place.
KERNEL rope(T* x, const float* cosines, const float* sines, Index n, int heads, int half, int tokens, float turn) {
    int parts = (half + AT_ONCE - 1) / AT_ONCE;
    Index part = (Index)blockIdx.x * blockDim.x + threadIdx.x;
    if (part >= n) return;
    Index head = part / parts; // counted over all rows
    int i = (int)(part - head * parts) * AT_ONCE, left = half - i;
    Index table = head / heads % tokens * half + i;
    x += head * 2 * half + i;
    Values low = load_each(x, left), high = load_each(x + half, left), y, z;
    Values c = load_each(cosines + table, left), s = load_each(sines + table, left);
    UNROLL for (int j = 0; j < AT_ONCE; ++j) {
        y.at[j] = low.at[j] * c.at[j] - high.at[j] * s.at[j] * turn;
        z.at[j] = high.at[j] * c.at[j] + low.at[j] * s.at[j] * turn;
    }
    store_each(x, y, left);
    store_each(x + half, z, left);
}
