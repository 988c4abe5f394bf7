// What the kernels of attention share: who sees whom.
//
// o_t = sum_s p_ts v_s, p_t = softmax(q_t . k_s / sqrt(d)). Query head h reads KV head kv_of[h]. With `window` 0 every token
// sees all of its sequence; else t sees s <= t, s > t - window (causal; a window as long as the sequence hides nothing), and
// where `first` is not null s >= first_t, where t's document starts: first [sequences, tokens] ascends in a sequence.
// q, o [sequences tokens, heads d]; k, v [sequences tokens, kv_heads d]; log_sums, along [sequences heads, tokens].
#pragma once
#include "common.cuh"

struct Shape {
    int tokens, heads, kv_heads, window;
    float scale;
    const int* first; // of one sequence
};

__device__ inline const int* of_sequence(const int* first, int sequence, int tokens) {
    return first ? first + (Index)sequence * tokens : nullptr;
}

__device__ inline bool sees(Shape s, int query, int key) {
    if (query >= s.tokens || key >= s.tokens) return false;
    return s.window == 0 || (key <= query && query - key < s.window && (!s.first || s.first[query] <= key));
}

// The keys from `from` to `to` that a query sees, as numbers to compare with; those of a query beyond the last mean nothing.
struct Span {
    int from, to;
};
__device__ inline Span span_of(Shape s, int query) {
    bool all = s.window == 0;
    int start = s.first ? s.first[min(query, s.tokens - 1)] : 0;
    return {all ? 0 : max(start, query - s.window + 1), all ? s.tokens - 1 : query};
}

// Whether the queries [query, query + queries) see all of the keys [key, key + keys); those beyond the last do not count.
__device__ inline bool all_see(Shape s, int query, int queries, int key, int keys) {
    if (s.window == 0) return key + keys <= s.tokens;
    int last = min(query + queries, s.tokens) - 1;
    return key + keys - 1 <= query && last - key < s.window && (!s.first || s.first[last] <= key);
}

// Whether it is plain that none of them sees any of these.
__device__ inline bool none_sees(Shape s, int query, int queries, int key, int keys) {
    return s.window != 0 && (query + queries <= key || query - (key + keys - 1) >= s.window);
}

// Keys [first, end) that any of the queries [start, start + count) sees.
__device__ inline int first_key(Shape s, int start) {
    return s.window == 0 ? 0 : max(s.first ? s.first[start] : 0, start + 1 - s.window);
}
__device__ inline int end_key(Shape s, int start, int count) {
    return s.window == 0 ? s.tokens : min(s.tokens, start + count);
}

// Queries [first, end) that see any of the keys [start, start + count).
__device__ inline int first_query(Shape s, int start) { return s.window == 0 ? 0 : start; }
__device__ inline int end_query(Shape s, int start, int count) {
    if (s.window == 0) return s.tokens;
    int end = (int)min((Index)s.tokens, (Index)start + count - 1 + s.window);
    if (!s.first) return end;
    int low = start; // documents ascend: halve down to the first query whose own starts after these keys
    while (low < end) {
        int middle = low + (end - low) / 2;
        if (s.first[middle] < start + count) low = middle + 1;
        else end = middle;
    }
    return end;
}
