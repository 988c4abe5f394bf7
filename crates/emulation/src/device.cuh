// The part of CUDA that kernels/ uses, on the host: the very same sources run block by block, one fiber a thread.
//
// Checked on the way: threads that part at a barrier or at a warp's collective (the run ends with a message), shared
// memory read before it is written (it starts as NaN), writes beyond dynamic shared memory. The fibers of a block run
// one at a time, each until its next barrier; the order of the turns, and of the blocks, is an argument of the launch, and
// a missing barrier shows as a result that changes with it.
#pragma once
#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

using std::max;
using std::min;

#define __device__
#define __global__
#define __forceinline__ inline
#define __align__(n) __attribute__((aligned(n)))
// All in one section, so that it can be filled before each block.
#define __shared__ static __attribute__((section("shared_memory")))
#define __launch_bounds__(...)
#define UNROLL
#define KERNEL extern "C" void
#define DYNAMIC_SHARED(name) unsigned char* name = emulation::dynamic_shared

struct dim3 {
    unsigned x, y, z;
};
struct float2 {
    float x, y;
};
struct uint4 {
    unsigned x, y, z, w;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

struct bf16 {
    unsigned short bits;
};

namespace emulation {

// A barrier of a warp or of the block; `kind` is what the threads wait for, and must be the same for all.
struct Barrier {
    int expected = 0, arrived = 0;
    const char* kind = nullptr;
    unsigned long generation = 0;
};

struct Warp {
    Barrier barrier;
    // What the lanes hand each other. Two sets in turns: a lane may be one collective ahead, never two.
    unsigned long long slots[2][32][16];
    unsigned long turn[32] = {};
};

// A copy to shared memory that has not come yet.
struct Copy {
    void* to;
    const void* from; // null: zeros
    size_t bytes;
};

struct Thread {
    dim3 index;
    int flat;
    bool started = false, done = false;
    jmp_buf place;
    ucontext_t context;
    char* stack;
    std::vector<Copy> on_the_way;
};

const size_t STACK = 256 * 1024;
const size_t GUARD = 64; // bytes after dynamic shared memory that must stay as they are

inline Thread* current;
inline std::vector<Thread> threads;
inline std::vector<Warp> warps;
inline Barrier block_barrier;
inline jmp_buf scheduler;
inline bool progress;
inline std::string failure;
inline dim3 block_index, block_size, grid_size;
inline unsigned char* dynamic_shared;
inline void (*body)(void*);
inline void* body_argument;

[[noreturn]] inline void back_to_scheduler() { _longjmp(scheduler, 1); }

inline void yield() {
    if (_setjmp(current->place) == 0) back_to_scheduler();
}

inline void fail(const std::string& what) {
    if (failure.empty()) failure = what + " in thread " + std::to_string(current->flat);
    for (;;) yield();
}

inline void wait(Barrier& barrier, const char* kind) {
    if (barrier.arrived == 0) barrier.kind = kind;
    if (strcmp(barrier.kind, kind) != 0) fail(std::string("threads part: ") + barrier.kind + " and " + kind);
    unsigned long generation = barrier.generation;
    if (++barrier.arrived == barrier.expected) {
        barrier.arrived = 0;
        barrier.generation++;
        progress = true;
        return;
    }
    while (barrier.generation == generation) yield();
}

// Hands `value` to the warp and returns all lanes' values.
template <class V>
inline const unsigned long long (*exchange(const V& value, const char* kind))[16] {
    static_assert(sizeof(V) <= sizeof(unsigned long long[16]), "too large for a slot");
    Warp& warp = warps[current->flat / 32];
    int lane = current->flat % 32;
    unsigned long set = warp.turn[lane]++ % 2;
    memcpy(warp.slots[set][lane], &value, sizeof(V));
    wait(warp.barrier, kind);
    return warp.slots[set];
}

template <class V>
inline V value_of(const unsigned long long (*slots)[16], int lane) {
    V value;
    memcpy(&value, slots[lane], sizeof(V));
    return value;
}

inline void enter() {
    body(body_argument);
    current->done = true;
    progress = true;
    back_to_scheduler();
}

inline void resume(Thread& thread) {
    current = &thread;
    if (_setjmp(scheduler) != 0) return;
    if (thread.started) _longjmp(thread.place, 1);
    thread.started = true;
    getcontext(&thread.context);
    thread.context.uc_stack.ss_sp = thread.stack;
    thread.context.uc_stack.ss_size = STACK;
    thread.context.uc_link = nullptr;
    makecontext(&thread.context, enter, 0);
    setcontext(&thread.context);
}

extern "C" char __start_shared_memory[] __attribute__((weak));
extern "C" char __stop_shared_memory[] __attribute__((weak));

// A fixed permutation of the turns: 0 as numbered, 1 from the last, others scattered.
inline size_t nth(size_t i, size_t count, int order) {
    if (order == 0) return i;
    if (order == 1) return count - 1 - i;
    return (i * 7 + (size_t)order) % count; // counts are multiples of 32: 7 shares no factor with one up to 192
}

inline void run_block(int order) {
    size_t count = threads.size();
    if (__start_shared_memory) memset(__start_shared_memory, 0xff, __stop_shared_memory - __start_shared_memory);
    block_barrier = Barrier();
    block_barrier.expected = (int)count;
    for (size_t i = 0; i < warps.size(); ++i) {
        warps[i] = Warp();
        warps[i].barrier.expected = (int)std::min<size_t>(32, count - 32 * i);
    }
    for (size_t i = 0; i < count; ++i) {
        Thread& thread = threads[i];
        thread.index = {(unsigned)i, 0, 0};
        thread.flat = (int)i;
        thread.started = thread.done = false;
        thread.on_the_way.clear();
    }
    for (;;) {
        progress = false;
        size_t done = 0;
        for (size_t i = 0; i < count; ++i) {
            Thread& thread = threads[nth(i, count, order)];
            if (!thread.done) resume(thread);
            done += thread.done;
        }
        if (!failure.empty() || done == count) return;
        if (!progress) {
            failure = "threads wait for others that have ended or wait elsewhere";
            return;
        }
    }
}

inline void launch(dim3 grid, unsigned block, size_t shared, int order) {
    static std::vector<char> stacks;
    if (stacks.size() < block * STACK) stacks.resize(block * STACK);
    std::vector<unsigned char> memory(shared + GUARD + 16);
    dynamic_shared = memory.data() + (16 - (size_t)memory.data() % 16) % 16;
    threads.resize(block);
    for (unsigned i = 0; i < block; ++i) threads[i].stack = stacks.data() + i * STACK;
    warps.resize((block + 31) / 32);
    block_size = {block, 1, 1};
    grid_size = grid;
    failure.clear();
    size_t blocks = (size_t)grid.x * grid.y * grid.z;
    for (size_t i = 0; i < blocks; ++i) {
        size_t block = order == 0 ? i : blocks - 1 - i;
        block_index = {(unsigned)(block % grid.x), (unsigned)(block / grid.x % grid.y),
                       (unsigned)(block / grid.x / grid.y)};
        memset(dynamic_shared, 0xff, shared + GUARD);
        run_block(order);
        for (size_t j = 0; j < GUARD && failure.empty(); ++j)
            if (dynamic_shared[shared + j] != 0xff) failure = "a write beyond dynamic shared memory";
        if (!failure.empty()) return;
    }
}

template <class... A, size_t... I>
void call(void (*kernel)(A...), void** arguments, std::index_sequence<I...>) {
    kernel(*(A*)arguments[I]...);
}

template <class... A>
struct Bound {
    void (*kernel)(A...);
    void** arguments;
    static void run(void* self) {
        Bound* bound = (Bound*)self;
        call(bound->kernel, bound->arguments, std::index_sequence_for<A...>());
    }
};

// Runs the kernel; the message is empty if all went well. `count` is checked: a launcher may not pass more or less.
template <class... A>
const char* emulate(void (*kernel)(A...), dim3 grid, unsigned block, size_t shared, void** arguments, size_t count,
                    int order) {
    if (count != sizeof...(A)) return "the wrong number of arguments";
    Bound<A...> bound = {kernel, arguments};
    body = Bound<A...>::run;
    body_argument = &bound;
    launch(grid, block, shared, order);
    return failure.c_str();
}

} // namespace emulation

#define EMULATED(kernel)                                                                                              \
    extern "C" const char* emulated_##kernel(unsigned x, unsigned y, unsigned z, unsigned block, size_t shared,       \
                                             void** arguments, size_t count, int order) {                             \
        return emulation::emulate(kernel, dim3{x, y, z}, block, shared, arguments, count, order);                     \
    }

#define threadIdx (emulation::current->index)
#define blockIdx (emulation::block_index)
#define blockDim (emulation::block_size)
#define gridDim (emulation::grid_size)

inline void __syncthreads() { emulation::wait(emulation::block_barrier, "__syncthreads"); }
inline void __syncwarp() { emulation::exchange(0, "__syncwarp"); }

template <class V>
inline V __shfl_xor_sync(unsigned, V value, int mask) {
    int lane = emulation::current->flat % 32;
    return emulation::value_of<V>(emulation::exchange(value, "__shfl_xor_sync"), lane ^ mask);
}

template <class V>
inline V __shfl_sync(unsigned, V value, int lane) {
    return emulation::value_of<V>(emulation::exchange(value, "__shfl_sync"), lane % 32);
}

inline bool __all_sync(unsigned, bool value) {
    auto slots = emulation::exchange(value, "__all_sync");
    bool all = true;
    for (int lane = 0; lane < 32; ++lane) all = all && emulation::value_of<bool>(slots, lane);
    return all;
}

inline float __uint_as_float(unsigned bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
}
inline unsigned __float_as_uint(float x) {
    unsigned bits;
    memcpy(&bits, &x, 4);
    return bits;
}
inline float __int_as_float(unsigned bits) { return __uint_as_float(bits); }
inline float __expf(float x) { return expf(x); }

inline bf16 to_bf16(float x) {
    unsigned bits = __float_as_uint(x);
    if (x != x) return {0x7fff};
    return {(unsigned short)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};
}

inline unsigned pack(float low, float high) { return to_bf16(low).bits | (unsigned)to_bf16(high).bits << 16; }

// By the definition of the fragments in the PTX manual: the matrices are put together, multiplied and taken apart.
inline void mma(float c[4], const unsigned a[4], unsigned b0, unsigned b1) {
    struct Lane {
        unsigned a[4], b[2];
        float c[4];
    } mine = {{a[0], a[1], a[2], a[3]}, {b0, b1}, {c[0], c[1], c[2], c[3]}};
    auto slots = emulation::exchange(mine, "mma");
    auto half = [](unsigned pair, int which) { return __uint_as_float(which ? pair & 0xffff0000u : pair << 16); };
    auto of_a = [&](int row, int k) { // register: rows 8.. are odd ones, columns 8.. the upper two
        Lane lane = emulation::value_of<Lane>(slots, row % 8 * 4 + k % 8 / 2);
        return half(lane.a[row / 8 + k / 8 * 2], k % 2);
    };
    auto of_b = [&](int k, int column) {
        Lane lane = emulation::value_of<Lane>(slots, column * 4 + k % 8 / 2);
        return half(lane.b[k / 8], k % 2);
    };
    int lane = emulation::current->flat % 32;
    for (int i = 0; i < 4; ++i) {
        int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
        float sum = c[i];
        for (int k = 0; k < 16; ++k) sum += of_a(row, k) * of_b(k, column);
        c[i] = sum;
    }
}

template <bool transposed>
inline void load_matrices(unsigned r[4], const bf16* row) {
    if ((size_t)row % 16 != 0) emulation::fail("a row of load_matrices that is not aligned");
    auto slots = emulation::exchange(row, "load_matrices");
    int lane = emulation::current->flat % 32, g = lane / 4, t = lane % 4;
    for (int matrix = 0; matrix < 4; ++matrix) {
        auto at = [&](int i, int j) { return (unsigned)emulation::value_of<const bf16*>(slots, 8 * matrix + i)[j].bits; };
        r[matrix] = transposed ? at(2 * t, g) | at(2 * t + 1, g) << 16 : at(g, 2 * t) | at(g, 2 * t + 1) << 16;
    }
}

// Comes when it is waited for, and not before. Until then the place holds NaN: for who reads too early, and for who still
// read what was there.
template <int bytes>
inline void copy_async(void* shared, const void* global, bool inside) {
    if ((size_t)shared % bytes != 0 || (size_t)global % bytes != 0) emulation::fail("a copy_async that is not aligned");
    memset(shared, 0xff, bytes);
    emulation::current->on_the_way.push_back({shared, inside ? global : nullptr, bytes});
}

inline void wait_async() {
    for (const emulation::Copy& copy : emulation::current->on_the_way) {
        if (copy.from) memcpy(copy.to, copy.from, copy.bytes);
        else memset(copy.to, 0, copy.bytes);
    }
    emulation::current->on_the_way.clear();
}

inline float exp2_near(float x) { return exp2f(x); }
inline float inverse_near(float x) { return 1.0f / x; }
