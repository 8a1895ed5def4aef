// What all kernels stand on, for a CUDA device of compute capability 8.0 or more (tensor cores that multiply m16n8k16,
// maxima of half-precision pairs): frame.cu is what comes before and after a network, network.cu the network.
//
// Compiled at run time by NVRTC, as one source without any header, and in the tests by the host's C++ compiler, under
// host.h, which runs a block's threads as fibers. The launches are in frame.rs and layers.rs; each structure has its twin
// there.

#ifndef HOST
typedef unsigned short u16;
typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long long u64;
#define KERNEL extern "C" __global__ void
#define DEVICE static __device__ __forceinline__
#define DEVICE_MEMBER __device__ __forceinline__
#define SHARED __shared__
#define ALIGNED __align__(16)
#define ALIGNED_EIGHT __align__(8)
#define THREADS(count) __launch_bounds__(count)
#define THREADS_TIMES(count, blocks) __launch_bounds__(count, blocks)  // so many blocks at once
#define DYNAMIC_SHARED(type, name) extern __shared__ __align__(16) type name[]
#define MUL(a, b) __fmul_rn(a, b)  // never one operation with an addition: the processor's numbers, exactly
#define NEGATIVE_INFINITY __int_as_float(0xff800000)
#define QUIET_NAN __int_as_float(0x7fffffff)

// Lets the next kernel of the stream be brought onto the device while this one works, and waits until the one before has
// ended and can be seen; without effect where the launch does not allow it.
DEVICE void wait_for_input() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;");
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Begins to copy 16 bytes to shared memory, or to set them to zero.
DEVICE void copy_async(void* to, const void* from, bool is_there) {
    u32 at = (u32)__cvta_generic_to_shared(to);
    int bytes = is_there ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(at), "l"(from), "r"(bytes) : "memory");
}

// The same for 8 bytes.
DEVICE void copy_async8(void* to, const void* from, bool is_there) {
    u32 at = (u32)__cvta_generic_to_shared(to);
    int bytes = is_there ? 8 : 0;
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(at), "l"(from), "r"(bytes) : "memory");
}

// Ends a group of copies.
DEVICE void copies_end() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until all but the last `LATER` groups have come.
template <int LATER>
DEVICE void copies_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(LATER) : "memory");
}

DEVICE void add_to(u64* sum, long long value) { atomicAdd(sum, (u64)value); }
// Makes what a thread has written visible to who finds out later that it has.
DEVICE void fence() { __threadfence(); }
// What was there before.
DEVICE u32 add_one(u32* count) { return atomicAdd(count, 1u); }

// Waits until a count that other blocks raise is so high, and what they have written before can be seen.
DEVICE void wait_for_count(const u32* count, u32 least) {
    u32 value;
    do {
        asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(count) : "memory");
    } while (value < least);
}

// What other blocks have made of it.
DEVICE long long latest(const u64* sum) {
    long long value;
    asm volatile("ld.global.cg.s64 %0, [%1];" : "=l"(value) : "l"(sum) : "memory");
    return value;
}

DEVICE long long to_whole(float value) { return __float2ll_rn(value); }

DEVICE float low(u32 pair) {
    float value;
    asm("{.reg .f16 l, h; mov.b32 {l, h}, %1; cvt.f32.f16 %0, l;}" : "=f"(value) : "r"(pair));
    return value;
}

DEVICE float high(u32 pair) {
    float value;
    asm("{.reg .f16 l, h; mov.b32 {l, h}, %1; cvt.f32.f16 %0, h;}" : "=f"(value) : "r"(pair));
    return value;
}

// Rounded to the nearest even.
DEVICE u32 pack(float low, float high) {
    u32 pair;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

// Rounded to the nearest even, and what is below 0 is 0.
DEVICE u32 pack_relu(float low, float high) {
    u32 pair;
    asm("cvt.rn.relu.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

// Of a number and what is none: the number.
DEVICE u32 max2(u32 a, u32 b) {
    u32 pair;
    asm("max.f16x2 %0, %1, %2;" : "=r"(pair) : "r"(a), "r"(b));
    return pair;
}

DEVICE u32 min2(u32 a, u32 b) {
    u32 pair;
    asm("min.f16x2 %0, %1, %2;" : "=r"(pair) : "r"(a), "r"(b));
    return pair;
}

DEVICE u32 mul2(u32 a, u32 b) {
    u32 pair;
    asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(pair) : "r"(a), "r"(b));
    return pair;
}

// a b + c, rounded once.
DEVICE u32 fma2(u32 a, u32 b, u32 c) {
    u32 pair;
    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(pair) : "r"(a), "r"(b), "r"(c));
    return pair;
}

// As above, between 0 and 1.
DEVICE u32 fma2_saturated(u32 a, u32 b, u32 c) {
    u32 pair;
    asm("fma.rn.sat.f16x2 %0, %1, %2, %3;" : "=r"(pair) : "r"(a), "r"(b), "r"(c));
    return pair;
}

// Four 8x8 matrices from shared memory, as `mma` wants them: lane 8 i + j says where row j of matrix i lies, and gets
// of each matrix two neighbours in row lane / 4 (PTX: ldmatrix).
DEVICE void load_matrices(u32 (&m)[4], const void* row) {
    u32 at = (u32)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
                 : "r"(at)
                 : "memory");
}

DEVICE void sync_warp() { __syncwarp(); }

// What the lane before has as `last` and the lane behind as `first`. The outermost lanes get something.
DEVICE void beside(const u32 (&first)[2], const u32 (&last)[2], u32 (&left)[2], u32 (&right)[2]) {
#pragma unroll
    for (int i = 0; i < 2; i++) {
        left[i] = __shfl_up_sync(0xffffffff, last[i], 1);
        right[i] = __shfl_down_sync(0xffffffff, first[i], 1);
    }
}

// b of `mma`, from shared memory: lanes 0 to 15 say where b's rows begin, of eight each.
DEVICE void load_b(u32 (&b)[2], const void* row) {
    u32 at = (u32)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
                 : "=r"(b[0]), "=r"(b[1])
                 : "r"(at)
                 : "memory");
}

// c += a b for a: 16x16, b: 16x8, each lane of a warp with its part (PTX: mma.m16n8k16). All lanes have to execute it:
// volatile, so that it is not moved to where only some of them need what it gives.
DEVICE void mma(float (&c)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
#endif

// The same for a number that only the launch knows; for more than 8 it waits for what it need not.
DEVICE void copies_wait_but(int later) {
    switch (later) {
        case 0:
            return copies_wait<0>();
        case 1:
            return copies_wait<1>();
        case 2:
            return copies_wait<2>();
        case 3:
            return copies_wait<3>();
        case 4:
            return copies_wait<4>();
        case 5:
            return copies_wait<5>();
        case 6:
            return copies_wait<6>();
        case 7:
            return copies_wait<7>();
        default:
            return copies_wait<8>();
    }
}

#define NONE_LOWEST 0xfc00fc00u  // a pair of minus infinities
#define SIX_SIX 0x46004600u

// Eight half-precision channels of a pixel.
struct ALIGNED Eight {
    u32 pair[4];
};

struct ALIGNED Four {
    float value[4];
};

// What a lane has of `mma`'s b.
struct ALIGNED_EIGHT Two {
    u32 value[2];
};

DEVICE Eight eight_of(u32 pair) { return Eight{{pair, pair, pair, pair}}; }

DEVICE Eight max8(Eight a, Eight b) {
    Eight m;
#pragma unroll
    for (int i = 0; i < 4; i++) m.pair[i] = max2(a.pair[i], b.pair[i]);
    return m;
}

DEVICE void unpack(Eight e, float (&v)[8]) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
        v[2 * i] = low(e.pair[i]);
        v[2 * i + 1] = high(e.pair[i]);
    }
}

// Eight numbers from a place that is aligned for four.
DEVICE void load_eight(const float* from, float (&v)[8]) {
    Four first = ((const Four*)from)[0], second = ((const Four*)from)[1];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        v[i] = first.value[i];
        v[4 + i] = second.value[i];
    }
}

DEVICE Eight packed(const float (&v)[8]) {
    Eight e;
#pragma unroll
    for (int i = 0; i < 4; i++) e.pair[i] = pack(v[2 * i], v[2 * i + 1]);
    return e;
}

enum { ACT_NONE = 0, ACT_RELU = 1, ACT_RELU6 = 2, ACT_HARDSWISH = 3 };

// Without branches where the kind is only known at run time.
DEVICE float activated(float v, int act) {
    float least = act == ACT_NONE ? NEGATIVE_INFINITY : 0;
    float most = act == ACT_RELU6 || act == ACT_HARDSWISH ? 6 : -NEGATIVE_INFINITY;
    float gate = act == ACT_HARDSWISH ? v + 3 : v;
    gate = gate < least ? least : gate;
    gate = gate > most ? most : gate;
    return act == ACT_HARDSWISH ? v * (gate * (1.0f / 6)) : gate;
}

// Where a position of a map lies in a smaller one: PyTorch's align_corners=False.
struct Lerp {
    int first, next;
    float weight;
};

DEVICE Lerp lerp_by(int at, int from, float ratio) {
    float place = ((float)at + 0.5f) * ratio - 0.5f;
    place = place < 0 ? 0 : place;
    Lerp l;
    l.first = (int)place;
    if (l.first > from - 1) l.first = from - 1;
    l.next = l.first + (l.first < from - 1 ? 1 : 0);
    l.weight = place - (float)l.first;
    return l;
}

DEVICE Lerp lerp_at(int at, int from, int to) { return lerp_by(at, from, (float)from / (float)to); }
