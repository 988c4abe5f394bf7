// What the kernels of attention share: who sees whom.
//
// o_t = sum_s p_ts v_s, p_t = softmax(q_t . k_s / sqrt(d)). Query head h reads KV head kv_of[h]. With `window` 0 every token
// sees all of its sequence; else t sees s <= t, s > t - window (causal; a window as long as the sequence hides nothing).
// q, o [sequences tokens, heads d]; k, v [sequences tokens, kv_heads d]; log_sums, along [sequences heads, tokens].
#pragma once
#include "common.cuh"

struct Shape {
    int tokens, heads, kv_heads, window;
    float scale;
};

__device__ inline bool sees(Shape s, int query, int key) {
    return query < s.tokens && key < s.tokens && (s.window == 0 || (key <= query && query - key < s.window));
}

// Keys [first, end) that any of the queries [start, start + count) sees.
__device__ inline int first_key(Shape s, int start) { return s.window == 0 ? 0 : max(0, start + 1 - s.window); }
__device__ inline int end_key(Shape s, int start, int count) {
    return s.window == 0 ? s.tokens : min(s.tokens, start + count);
}

// Queries [first, end) that see any of the keys [start, start + count).
__device__ inline int first_query(Shape s, int start) { return s.window == 0 ? 0 : start; }
__device__ inline int end_query(Shape s, int start, int count) {
    return s.window == 0 ? s.tokens : (int)min((Index)s.tokens, (Index)start + count - 1 + s.window);
}
