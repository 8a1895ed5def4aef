// Runs the kernels on the processor, for the tests: a block's threads are fibers that take turns at barriers. Slow, and
// the same arithmetic: half precision with the compiler's _Float16, tensor cores as their definition says.

#define HOST
#include <math.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#include <deque>
#include <vector>

typedef uint16_t u16;
typedef uint8_t u8;
typedef uint32_t u32;
typedef unsigned long long u64;

struct Index {
    int x, y, z;
};

namespace host {
// On its way to shared memory.
struct Copy {
    void* to;
    const void* from;
    int bytes, group;
    bool is_there;
};

// One for each thread of a block; it lives on, and runs that thread of the next blocks and kernels, too.
struct Fiber {
    std::vector<char> stack;
    bool has_begun = false;
    // Where it goes on. Jumps do without the system calls of `swapcontext`, which took most of a test's time.
    jmp_buf here;
    std::vector<Copy> copies;
    int groups;  // of copies, ended
    bool is_done;
};

// Does not move what it holds.
static thread_local std::deque<Fiber> fibers;
static thread_local jmp_buf scheduler;
static thread_local int running;

// A barrier: who arrives last lets all go on.
struct Barrier {
    int arrived, turn;
};
static thread_local Barrier block_barrier, warp_barriers[32];
static thread_local std::vector<char> dynamic;

// Not inlined, so that no caller's variables live across the jump.
__attribute__((noinline)) static void yield() {
    if (_setjmp(fibers[running].here) == 0) _longjmp(scheduler, 1);
}

static void meet(Barrier& barrier, int parties) {
    int turn = barrier.turn;
    if (++barrier.arrived == parties) {
        barrier.arrived = 0;
        barrier.turn++;
        return;
    }
    while (barrier.turn == turn) yield();
}

// What the lanes of each warp give each other.
struct Operands {
    u32 a[4], b[2];
    const u16* row;
};
static thread_local Operands operands[32][32];
}  // namespace host

static thread_local Index threadIdx, blockIdx, blockDim, gridDim;

#define KERNEL void
#define DEVICE static inline
#define DEVICE_MEMBER inline
#define SHARED static thread_local
#define THREADS(count)
#define THREADS_TIMES(count, blocks)
#define ALIGNED __attribute__((aligned(16)))
#define ALIGNED_EIGHT __attribute__((aligned(8)))
#define DYNAMIC_SHARED(type, name) type* name = (type*)(((uintptr_t)host::dynamic.data() + 15) / 16 * 16)
#define MUL(a, b) ((float)(a) * (float)(b))
#define NEGATIVE_INFINITY (-INFINITY)
#define QUIET_NAN NAN

static inline void __syncthreads() { host::meet(host::block_barrier, blockDim.x); }

static inline void wait_for_input() {}
// Copies are made when they are waited for, no sooner.
static inline void copy_later(void* to, const void* from, int bytes, bool is_there) {
    host::Fiber& fiber = host::fibers[host::running];
    fiber.copies.push_back({to, from, bytes, fiber.groups, is_there});
}
static inline void copy_async(void* to, const void* from, bool is_there) { copy_later(to, from, 16, is_there); }
static inline void copy_async8(void* to, const void* from, bool is_there) { copy_later(to, from, 8, is_there); }
static inline void copies_end() { host::fibers[host::running].groups++; }
template <int LATER>
static inline void copies_wait() {
    host::Fiber& fiber = host::fibers[host::running];
    std::vector<host::Copy> left;
    for (const host::Copy& copy : fiber.copies) {
        if (copy.group >= fiber.groups - LATER) {
            left.push_back(copy);
        } else if (copy.is_there) {
            memcpy(copy.to, copy.from, copy.bytes);
        } else {
            memset(copy.to, 0, copy.bytes);
        }
    }
    fiber.copies.swap(left);
}
static inline void add_to(u64* sum, long long value) { *sum += (u64)value; }
static inline void fence() {}
static inline u32 add_one(u32* count) { return (*count)++; }
// Blocks run one after the other: who waits for others has to come after them.
static inline void wait_for_count(const u32* count, u32 least) {
    if (*count < least) abort();
}
static inline long long latest(const u64* sum) { return (long long)*sum; }
static inline long long to_whole(float value) { return llrintf(value); }

static inline float half_value(u16 bits) {
    _Float16 half;
    memcpy(&half, &bits, 2);
    return (float)half;
}

static inline u16 half_bits(float value) {
    _Float16 half = (_Float16)value;
    u16 bits;
    memcpy(&bits, &half, 2);
    return bits;
}

static inline float low(u32 pair) { return half_value(pair & 0xffff); }
static inline float high(u32 pair) { return half_value(pair >> 16); }
static inline u32 pack(float low, float high) { return half_bits(low) | (u32)half_bits(high) << 16; }
static inline u32 pack_relu(float low, float high) { return pack(low > 0 ? low : 0, high > 0 ? high : 0); }
// As the device does: of a number and what is none, the number.
static inline u32 max2(u32 a, u32 b) { return pack(fmaxf(low(a), low(b)), fmaxf(high(a), high(b))); }
static inline u32 min2(u32 a, u32 b) { return pack(fminf(low(a), low(b)), fminf(high(a), high(b))); }

static inline u32 mul2(u32 a, u32 b) { return pack(low(a) * low(b), high(a) * high(b)); }
// The product of two halves is exact in single precision, their sum in double precision.
static inline u32 fma2(u32 a, u32 b, u32 c) {
    return pack((float)((double)low(a) * low(b) + low(c)), (float)((double)high(a) * high(b) + high(c)));
}

static inline u32 fma2_saturated(u32 a, u32 b, u32 c) {
    u32 sum = fma2(a, b, c);
    return pack(fminf(fmaxf(low(sum), 0), 1), fminf(fmaxf(high(sum), 0), 1));
}

static inline void sync_warp() { host::meet(host::warp_barriers[threadIdx.x / 32], 32); }

static inline void beside(const u32 (&first)[2], const u32 (&last)[2], u32 (&left)[2], u32 (&right)[2]) {
    int lane = threadIdx.x % 32;
    host::Operands* all = host::operands[threadIdx.x / 32];
    memcpy(all[lane].a, first, sizeof first);
    memcpy(all[lane].b, last, sizeof last);
    sync_warp();
    memcpy(left, all[lane > 0 ? lane - 1 : lane].b, sizeof left);
    memcpy(right, all[lane < 31 ? lane + 1 : lane].a, sizeof right);
    sync_warp();
}

static inline void load_matrices(u32 (&m)[4], const void* row) {
    int lane = threadIdx.x % 32;
    host::Operands* all = host::operands[threadIdx.x / 32];
    all[lane].row = (const u16*)row;
    sync_warp();
    for (int i = 0; i < 4; i++) m[i] = *(const u32*)(all[8 * i + lane / 4].row + lane % 4 * 2);
    sync_warp();
}

static inline void load_b(u32 (&b)[2], const void* row) {
    int lane = threadIdx.x % 32;
    host::Operands* all = host::operands[threadIdx.x / 32];
    all[lane].row = (const u16*)row;
    sync_warp();
    for (int i = 0; i < 2; i++) {
        int k = 8 * i + lane % 4 * 2;
        b[i] = all[k].row[lane / 4] | (u32)all[k + 1].row[lane / 4] << 16;
    }
    sync_warp();
}

static inline void mma(float (&c)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    host::Operands* all = host::operands[warp];
    memcpy(all[lane].a, a, sizeof a);
    memcpy(all[lane].b, b, sizeof b);
    host::meet(host::warp_barriers[warp], 32);
    // Lane 4 g + t has of `a` the rows g and g + 8, columns 2 t, 2 t + 1 and 8 more; of `b` these columns' rows of column g;
    // of `c` the rows g and g + 8, columns 2 t and 2 t + 1.
    for (int i = 0; i < 4; i++) {
        int row = i / 2, column = lane % 4 * 2 + i % 2;
        float sum = 0;
        for (int t = 0; t < 4; t++) {
            const host::Operands &left = all[lane / 4 * 4 + t], &right = all[column * 4 + t];
            for (int part = 0; part < 2; part++) {
                u32 x = left.a[2 * part + row], y = right.b[part];
                sum += low(x) * low(y) + high(x) * high(y);
            }
        }
        c[i] += sum;
    }
    host::meet(host::warp_barriers[warp], 32);
}

namespace host {
typedef void (*Body)(const void*);
static thread_local Body body;
static thread_local const void* argument;

static void enter() {
    for (;;) {
        body(argument);
        fibers[running].is_done = true;
        yield();
    }
}

__attribute__((noinline)) static void resume(Fiber& fiber) {
    if (_setjmp(scheduler) != 0) return;
    if (fiber.has_begun) _longjmp(fiber.here, 1);
    fiber.has_begun = true;
    ucontext_t context;
    getcontext(&context);
    context.uc_stack.ss_sp = fiber.stack.data();
    context.uc_stack.ss_size = fiber.stack.size();
    context.uc_link = nullptr;
    makecontext(&context, enter, 0);
    setcontext(&context);
}

static void launch(Body kernel, const void* arguments, const u32* grid, u32 threads, u32 shared) {
    body = kernel;
    argument = arguments;
    dynamic.resize(shared + 16);
    while (fibers.size() < threads) {
        fibers.emplace_back();
        fibers.back().stack.resize(1 << 16);
    }
    gridDim = {(int)grid[0], (int)grid[1], (int)grid[2]};
    blockDim = {(int)threads, 1, 1};
    for (u32 block = 0; block < grid[0] * grid[1] * grid[2]; block++) {
        blockIdx = {(int)(block % grid[0]), (int)(block / grid[0] % grid[1]), (int)(block / grid[0] / grid[1])};
        block_barrier = {0, 0};
        for (Barrier& barrier : warp_barriers) barrier = {0, 0};
        // No numbers, so that it is seen if somebody reads what nobody wrote.
        memset(dynamic.data(), 0xff, dynamic.size());
        for (u32 i = 0; i < threads; i++) {
            fibers[i].is_done = false;
            fibers[i].copies.clear();
            fibers[i].groups = 0;
        }
        for (bool is_alive = true; is_alive;) {
            is_alive = false;
            // Forwards and backwards, so that it is seen if a barrier is missing.
            for (u32 turn = 0; turn < threads; turn++) {
                u32 i = block % 2 == 0 ? turn : threads - 1 - turn;
                if (fibers[i].is_done) continue;
                is_alive = true;
                running = (int)i;
                threadIdx = {(int)i, 0, 0};
                resume(fibers[i]);
            }
        }
    }
}
}  // namespace host

#define HOST_KERNEL(name, Arguments)                                                                        \
    extern "C" void host_##name(const void* arguments, const u32* grid, u32 threads, u32 shared) {          \
        host::launch([](const void* p) { name(*(const Arguments*)p); }, arguments, grid, threads, shared);   \
    }
