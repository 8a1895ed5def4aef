// The network and what comes before and after it, on a CUDA device of compute capability 8.0 or more (tensor cores that
// multiply m16n8k16, maxima of half-precision pairs).
//
// Compiled at run time by NVRTC, without any header, and in the tests by the host's C++ compiler, under host.h, which runs
// a block's threads as fibers. The launches are in layers.rs and frame.rs; each structure here has its twin there.
//
// Maps are half precision, [image][row][column][channel], channels padded with zeros to a multiple of 16, so that 8
// channels are one aligned load. Sums are taken in single precision.

#ifndef HOST
typedef unsigned short u16;
typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long long u64;
#define KERNEL extern "C" __global__ void
#define DEVICE static __device__ __forceinline__
#define SHARED __shared__
#define DEVICE_MEMBER __device__ __forceinline__
#define ALIGNED __align__(16)
#define ALIGNED_EIGHT __align__(8)
#define THREADS(count) __launch_bounds__(count)
#define THREADS_TWICE(count) __launch_bounds__(count, 2)  // two blocks at once
#define THREADS_TIMES(count, blocks) __launch_bounds__(count, blocks)  // so many blocks at once
#define DYNAMIC_SHARED(type, name) extern __shared__ type name[]
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

// Ends a group of copies.
DEVICE void copies_end() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until all but the last `LATER` groups have come.
template <int LATER>
DEVICE void copies_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(LATER) : "memory");
}

DEVICE void add_to(u64* sum, long long value) { atomicAdd(sum, (u64)value); }
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

DEVICE void sync_warp() { __syncwarp(); }

// What the lane before has as `last` and the lane behind as `first`. The outermost lanes get something.
DEVICE void beside(const u32 (&first)[2], const u32 (&last)[2], u32 (&left)[2], u32 (&right)[2]) {
#pragma unroll
    for (int i = 0; i < 2; i++) {
        left[i] = __shfl_up_sync(0xffffffff, last[i], 1);
        right[i] = __shfl_down_sync(0xffffffff, first[i], 1);
    }
}

// a of `mma`, from shared memory: each lane says where eight of row lane % 16 begin, those from column lane / 16 * 8.
DEVICE void load_a(u32 (&a)[4], const void* row) {
    u32 at = (u32)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(a[0]), "=r"(a[1]), "=r"(a[2]), "=r"(a[3])
                 : "r"(at)
                 : "memory");
}

// b of `mma`, from shared memory: lanes 0 to 15 say where b's rows begin, of eight each.
DEVICE void load_b(u32 (&b)[2], const void* row) {
    u32 at = (u32)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
                 : "=r"(b[0]), "=r"(b[1])
                 : "r"(at)
                 : "memory");
}

// c += a b for a: 16x16, b: 16x8, each lane of a warp with its part (PTX: mma.m16n8k16).
DEVICE void mma(float (&c)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
#endif

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

DEVICE Eight packed(const float (&v)[8]) {
    Eight e;
#pragma unroll
    for (int i = 0; i < 4; i++) e.pair[i] = pack(v[2 * i], v[2 * i + 1]);
    return e;
}

enum { ACT_NONE = 0, ACT_RELU = 1, ACT_RELU6 = 2, ACT_HARDSWISH = 3 };

DEVICE float activated(float v, int act) {
    if (act == ACT_NONE) return v;
    float gate = act == ACT_HARDSWISH ? v + 3 : v;
    gate = gate < 0 ? 0 : gate;
    if (act != ACT_RELU) gate = gate > 6 ? 6 : gate;
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

// ---- before the network ---------------------------------------------------------------------------------------------

// Bytes of a picture -> the network's input: resampled by tables of weights, normalised. One thread a pixel of the input.
struct Prepare {
    const u8* bytes;       // rows of `step` bytes, from the first row that is read
    u16* out;              // [height][width][4], the fourth is 0
    const int* columns;    // first source column of each, from the rectangle's start
    const float* column_weights;  // [to_width][column_taps]
    const int* rows;
    const float* row_weights;
    int step, pixel, offset0, offset1, offset2;  // bytes of a pixel, of the channels in it in the input's order
    int column_taps, row_taps;
    int width, height, to_x, to_y, to_width, to_height;
    float scale[3], bias[3];
};

KERNEL prepare(Prepare p) {
    wait_for_input();
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= p.width * p.height) return;
    int x = i % p.width - p.to_x, y = i / p.width - p.to_y;
    float v[3] = {0, 0, 0};
    if (x >= 0 && x < p.to_width && y >= 0 && y < p.to_height) {
        const u8* base = p.bytes + (u64)p.rows[y] * p.step + (u64)p.columns[x] * p.pixel;
        const float* wy = p.row_weights + y * p.row_taps;
        const float* wx = p.column_weights + x * p.column_taps;
        float sum[3] = {0, 0, 0};
        for (int j = 0; j < p.column_taps; j++) {
            // In the order of the processor's resampler: pairs of rows first, then columns.
            float column[3] = {0, 0, 0};
            for (int k = 0; k < p.row_taps; k += 2) {
                const u8* a = base + (u64)k * p.step + j * p.pixel;
                float wa = wy[k];
                if (k + 1 < p.row_taps) {
                    const u8* b = a + p.step;
                    float wb = wy[k + 1];
                    column[0] += MUL(wa, a[p.offset0]) + MUL(wb, b[p.offset0]);
                    column[1] += MUL(wa, a[p.offset1]) + MUL(wb, b[p.offset1]);
                    column[2] += MUL(wa, a[p.offset2]) + MUL(wb, b[p.offset2]);
                } else {
                    column[0] += MUL(wa, a[p.offset0]);
                    column[1] += MUL(wa, a[p.offset1]);
                    column[2] += MUL(wa, a[p.offset2]);
                }
            }
            float w = wx[j];
#pragma unroll
            for (int c = 0; c < 3; c++) sum[c] += MUL(w, column[c]);
        }
#pragma unroll
        for (int c = 0; c < 3; c++) v[c] = MUL(sum[c], p.scale[c]) + p.bias[c];
    }
    u32* out = (u32*)(p.out + 4 * (u64)i);
    out[0] = pack(v[0], v[1]);
    out[1] = pack(v[2], 0);
}

// Single precision [pixel][3] -> half precision [pixel][4].
struct Narrow {
    const float* in;
    u16* out;
    int pixels;
};

KERNEL narrow(Narrow p) {
    wait_for_input();
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= p.pixels) return;
    const float* in = p.in + 3 * (u64)i;
    u32* out = (u32*)(p.out + 4 * (u64)i);
    out[0] = pack(in[0], in[1]);
    out[1] = pack(in[2], 0);
}

// ---- the encoder ----------------------------------------------------------------------------------------------------

// 3x3 convolution of stride 2 of the input, 16 channels, hard swish. A warp has two tiles of 16 pixels: of each row of the
// filter, four pixels of the input beside each other are 16 inputs of a product, the last one without weight. A lane
// has one of the four: the order of a product's inputs is any, if it is the weights', too.
struct Stem {
    const u16* in;  // [image][height][width][4]
    u16* out;       // [image][out_height][out_width][16]
    // [2][row of the filter][half of the outputs][lane][4], as `mma` takes b: in half precision, and what that leaves
    const u16* weight;
    const float* bias;
    int height, width, out_height, out_width, images;
};

#define STEM_TILES 2

KERNEL THREADS_TIMES(128, 7) stem(Stem p) {
    int lane = threadIdx.x % 32, part = lane % 4;
    u32 weight[6][2][2];
#pragma unroll
    for (int i = 0; i < 12; i++) {
        Two two = ((const Two*)p.weight)[i * 32 + lane];
        weight[i / 2][i % 2][0] = two.value[0];
        weight[i / 2][i % 2][1] = two.value[1];
    }
    float bias[2][2];
#pragma unroll
    for (int i = 0; i < 4; i++) bias[i / 2][i % 2] = p.bias[i / 2 * 8 + 2 * part + i % 2];
    wait_for_input();
    int pixels = p.out_height * p.out_width, all = pixels * p.images;
    int start = (blockIdx.x * blockDim.x + threadIdx.x) / 32 * 16 * STEM_TILES + lane / 4;
    // All loads first, so that one does not wait for another.
    u32 a[STEM_TILES][3][4];
    Two nothing{{0, 0}};
#pragma unroll
    for (int tile = 0; tile < STEM_TILES; tile++) {
#pragma unroll
        for (int below = 0; below < 2; below++) {
            int i = start + 16 * tile + 8 * below;
            int image = i / pixels, y = i % pixels / p.out_width, x = i % p.out_width;
            const Two* in = (const Two*)p.in + (u64)image * p.height * p.width;
            int sx = 2 * x + part - 1;
#pragma unroll
            for (int row = 0; row < 3; row++) {
                int sy = 2 * y + row - 1;
                bool is_inside = i < all && sy >= 0 && sy < p.height && sx >= 0 && sx < p.width;
                Two pixel = is_inside ? in[sy * p.width + sx] : nothing;
                a[tile][row][below] = pixel.value[0];
                a[tile][row][below + 2] = pixel.value[1];
            }
        }
    }
#pragma unroll
    for (int tile = 0; tile < STEM_TILES; tile++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float sum[4];
#pragma unroll
            for (int k = 0; k < 4; k++) sum[k] = bias[half][k % 2];
#pragma unroll
            for (int k = 0; k < 6; k++) mma(sum, a[tile][k % 3], weight[k][half]);
#pragma unroll
            for (int below = 0; below < 2; below++) {
                int i = start + 16 * tile + 8 * below;
                u32 pair = pack(activated(sum[2 * below], ACT_HARDSWISH), activated(sum[2 * below + 1], ACT_HARDSWISH));
                if (i < all) ((u32*)p.out)[(u64)i * 8 + 4 * half + part] = pair;
            }
        }
    }
}

// Sums that squeeze-and-excitation reads are whole numbers of this part of one: whatever the order of the blocks, the sum is
// the same.
#define SUM_UNIT 65536.0f

// Depthwise convolution with its activation, and the sums of its answers that squeeze-and-excitation reads.
// A block has `per_block` pixels of one image (blockIdx.y) and all channels.
struct Depthwise {
    const u16* in;
    u16* out;
    const u16* weight;  // [kernel * kernel][channels]
    const float* bias;
    u64* sums;  // [image][channels], added to; or null
    int height, width, out_height, out_width, channels, stride, act, per_block;
};

template <int SIZE>
DEVICE void depthwise(const Depthwise& p) {
    SHARED float room[256 * 8];
    int groups = p.channels / 8, lanes = blockDim.x / groups;
    int group = threadIdx.x % groups, lane = threadIdx.x / groups;
    int pixels = p.out_height * p.out_width;
    int start = blockIdx.x * p.per_block;
    int end = start + p.per_block < pixels ? start + p.per_block : pixels;
    const Eight* in = (const Eight*)p.in + (u64)blockIdx.y * p.height * p.width * groups + group;
    Eight* out = (Eight*)p.out + (u64)blockIdx.y * pixels * groups + group;
    const Eight* weight = (const Eight*)p.weight + group;
    float sums[8] = {0, 0, 0, 0, 0, 0, 0, 0};
    wait_for_input();
    if (lane < lanes) {
        for (int i = start + lane; i < end; i += lanes) {
            int y = i / p.out_width * p.stride - SIZE / 2, x = i % p.out_width * p.stride - SIZE / 2;
            float sum[8];
#pragma unroll
            for (int c = 0; c < 8; c++) sum[c] = p.bias[8 * group + c];
#pragma unroll
            for (int ky = 0; ky < SIZE; ky++) {
                // A row's loads together, so that one does not wait for another.
                Eight v[SIZE], w[SIZE];
                bool is_row = y + ky >= 0 && y + ky < p.height;
#pragma unroll
                for (int kx = 0; kx < SIZE; kx++) {
                    bool is_inside = is_row && x + kx >= 0 && x + kx < p.width;
                    v[kx] = is_inside ? in[((u64)(y + ky) * p.width + x + kx) * groups] : eight_of(0);
                    w[kx] = weight[(ky * SIZE + kx) * groups];
                }
#pragma unroll
                for (int kx = 0; kx < SIZE; kx++) {
                    float a[8], b[8];
                    unpack(v[kx], a);
                    unpack(w[kx], b);
#pragma unroll
                    for (int c = 0; c < 8; c++) sum[c] += a[c] * b[c];
                }
            }
#pragma unroll
            for (int c = 0; c < 8; c++) {
                sum[c] = activated(sum[c], p.act);
                sums[c] += sum[c];
            }
            out[(u64)i * groups] = packed(sum);
        }
    }
    if (p.sums == 0) return;
    if (lane < lanes) {
#pragma unroll
        for (int c = 0; c < 8; c++) room[(lane * groups + group) * 8 + c] = sums[c];
    }
    __syncthreads();
    for (int c = threadIdx.x; c < p.channels; c += blockDim.x) {
        float sum = 0;
        for (int l = 0; l < lanes; l++) sum += room[l * p.channels + c];
        add_to(p.sums + (u64)blockIdx.y * p.channels + c, to_whole(sum * SUM_UNIT));
    }
}

KERNEL depthwise3(Depthwise p) { depthwise<3>(p); }
KERNEL depthwise5(Depthwise p) { depthwise<5>(p); }

// Squeeze-and-excitation: sums -> means -> ReLU layer -> hard sigmoid layer. The sums are set to zero again. A block an image.
struct Excite {
    u64* sums;  // [image][channels]
    const u16* weight1;  // [channels / 8][squeezed][8]
    const float* bias1;
    const u16* weight2;  // [squeezed / 8][channels][8]
    const float* bias2;
    float* factors;  // [image][channels]
    int channels, squeezed, pixels;
};

KERNEL excite(Excite p) {
    SHARED float mean[576];
    SHARED float part[1024];
    SHARED float hidden[256];
    wait_for_input();
    u64* sums = p.sums + (u64)blockIdx.x * p.channels;
    for (int c = threadIdx.x; c < p.channels; c += blockDim.x) {
        mean[c] = (float)(long long)sums[c] / (SUM_UNIT * (float)p.pixels);
        sums[c] = 0;
    }
    __syncthreads();
    int parts = blockDim.x / p.squeezed, vectors = p.channels / 8;
    int j = threadIdx.x % p.squeezed, k = threadIdx.x / p.squeezed;
    if (k < parts) {
        const Eight* weight = (const Eight*)p.weight1 + j;
        float sum = 0;
#pragma unroll 6
        for (int v = k; v < vectors; v += parts) {
            float w[8];
            unpack(weight[(u64)v * p.squeezed], w);
#pragma unroll
            for (int c = 0; c < 8; c++) sum += w[c] * mean[8 * v + c];
        }
        part[k * p.squeezed + j] = sum;
    }
    __syncthreads();
    for (int h = threadIdx.x; h < p.squeezed; h += blockDim.x) {
        float sum = p.bias1[h];
#pragma unroll 4
        for (int q = 0; q < parts; q++) sum += part[q * p.squeezed + h];
        hidden[h] = sum < 0 ? 0 : sum;
    }
    __syncthreads();
    int more = p.squeezed / 8;
    for (int c = threadIdx.x; c < p.channels; c += blockDim.x) {
        const Eight* weight = (const Eight*)p.weight2 + c;
        float sum = p.bias2[c];
#pragma unroll 6
        for (int v = 0; v < more; v++) {
            float w[8];
            unpack(weight[(u64)v * p.channels], w);
#pragma unroll
            for (int q = 0; q < 8; q++) sum += w[q] * hidden[8 * v + q];
        }
        float gate = sum + 3;
        gate = gate < 0 ? 0 : gate > 6 ? 6 : gate;
        p.factors[(u64)blockIdx.x * p.channels + c] = gate * (1.0f / 6);
    }
}

// ---- products: 1x1 convolutions ---------------------------------------------------------------------------------------

// out = act([a, b] weight' + bias + enlarged + add), of which all but `a`, `weight` and `out` may be left out.
// A block has SIDE pixels and SIDE outputs, and four warps with a quarter of them each. Inputs come 64 at a time, STAGES of
// them on their way at once.
struct Product {
    const u16* a;  // [rows][a_channels]
    const u16* b;  // [rows][b_channels]
    const u16* weight;  // [outputs][a_channels + b_channels]
    const float* bias;
    const float* factors;  // [image][a_channels]: of `a`
    const u16* enlarged;  // [image][small_height][small_width][outputs], bilinearly
    const u16* add;  // [rows][outputs]
    u16* out;
    int rows, outputs, a_channels, b_channels, act;
    int height, width, small_height, small_width;  // rows = images x height x width
    int planes;  // whether `out` is [image][outputs / 8][row][8]: who goes along rows with eight channels reads it so
};

#define CHUNK 64
#define STAGES 4
#define PITCH 72  // of a row in shared memory: fragments then come from 32 different banks

template <int SIDE, bool FACTORS, bool ENLARGED>
DEVICE void product(const Product& p) {
    constexpr int HALF = SIDE / 2, ROWS = HALF / 16, COLUMNS = HALF / 8;
    DYNAMIC_SHARED(u16, room);
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int row0 = blockIdx.x * SIDE, output0 = blockIdx.y * SIDE;
    int inputs = p.a_channels + p.b_channels;
    // What each thread fetches of a chunk: eight inputs of every sixteenth line.
    int own_line = threadIdx.x / 8, own_input = threadIdx.x % 8 * 8;
    auto fetch_weights = [&](int chunk) {
        u16* tile = room + (chunk / CHUNK % STAGES * 2 + 1) * SIDE * PITCH;
        int input = chunk + own_input;
#pragma unroll
        for (int line = own_line; line < SIDE; line += 16) {
            bool is_there = input < inputs && output0 + line < p.outputs;
            copy_async(tile + line * PITCH + own_input, p.weight + (is_there ? (output0 + line) * inputs + input : 0), is_there);
        }
    };
    auto fetch = [&](int chunk) {
        u16* tile = room + chunk / CHUNK % STAGES * 2 * SIDE * PITCH;
        int input = chunk + own_input;
        bool is_a = input < p.a_channels;
        const u16* source = is_a ? p.a + input : p.b + input - p.a_channels;
        int channels = is_a ? p.a_channels : p.b_channels;
#pragma unroll
        for (int line = own_line; line < SIDE; line += 16) {
            bool is_there = input < inputs && row0 + line < p.rows;
            const u16* from = is_there ? source + (u64)(row0 + line) * channels : p.a;
            copy_async(tile + line * PITCH + own_input, from, is_there);
        }
    };
    // Weights are there before the kernel before has ended.
    for (int stage = 0; stage < STAGES - 1; stage++) {
        if (stage * CHUNK < inputs) fetch_weights(stage * CHUNK);
    }
    wait_for_input();
    for (int stage = 0; stage < STAGES - 1; stage++) {
        if (stage * CHUNK < inputs) fetch(stage * CHUNK);
        copies_end();
    }
    int a_row = warp / 2 * HALF + lane / 4, w_row = warp % 2 * HALF + lane / 4, pair = lane % 4 * 2;
    bool works = output0 + warp % 2 * HALF < p.outputs;
    int pixels = p.height * p.width;
    const float* factors[ROWS][2];
    if (FACTORS) {
#pragma unroll
        for (int i = 0; i < ROWS; i++) {
#pragma unroll
            for (int below = 0; below < 2; below++) {
                int row = row0 + a_row + 16 * i + 8 * below;
                row = row < p.rows ? row : p.rows - 1;
                factors[i][below] = p.factors + (u64)(row / pixels) * p.a_channels;
            }
        }
    }
    float sum[ROWS][COLUMNS][4];
#pragma unroll
    for (int i = 0; i < ROWS; i++)
#pragma unroll
        for (int j = 0; j < COLUMNS; j++)
#pragma unroll
            for (int k = 0; k < 4; k++) sum[i][j][k] = 0;
    for (int chunk = 0; chunk < inputs; chunk += CHUNK) {
        copies_wait<STAGES - 2>();
        __syncthreads();
        int next = chunk + (STAGES - 1) * CHUNK;
        if (next < inputs) {
            fetch_weights(next);
            fetch(next);
        }
        copies_end();
        if (!works) continue;
        const u16* a_tile = room + chunk / CHUNK % STAGES * 2 * SIDE * PITCH;
        const u16* w_tile = a_tile + SIDE * PITCH;
        // Always all of it: what is beyond the inputs is zero.
#pragma unroll
        for (int step = 0; step < CHUNK / 16; step++) {
            u32 a[ROWS][4], w[COLUMNS][2];
            int at = 16 * step + pair;
#pragma unroll
            for (int i = 0; i < ROWS; i++) {
                const u16* top = a_tile + (a_row + 16 * i) * PITCH + at;
                const u16* bottom = top + 8 * PITCH;
                a[i][0] = *(const u32*)top;
                a[i][1] = *(const u32*)bottom;
                a[i][2] = *(const u32*)(top + 8);
                a[i][3] = *(const u32*)(bottom + 8);
                if (FACTORS) {
#pragma unroll
                    for (int k = 0; k < 4; k++) {
                        const float* f = factors[i][k % 2] + chunk + at + k / 2 * 8;
                        a[i][k] = pack(low(a[i][k]) * f[0], high(a[i][k]) * f[1]);
                    }
                }
            }
#pragma unroll
            for (int j = 0; j < COLUMNS; j++) {
                const u16* line = w_tile + (w_row + 8 * j) * PITCH + at;
                w[j][0] = *(const u32*)line;
                w[j][1] = *(const u32*)(line + 8);
            }
#pragma unroll
            for (int i = 0; i < ROWS; i++)
#pragma unroll
                for (int j = 0; j < COLUMNS; j++) mma(sum[i][j], a[i], w[j]);
        }
    }
    if (!works) return;
#pragma unroll
    for (int i = 0; i < ROWS; i++) {
#pragma unroll
        for (int below = 0; below < 2; below++) {
            int row = row0 + a_row + 16 * i + 8 * below;
            if (row >= p.rows) continue;
            Lerp ly, lx;
            const u16* small = 0;
            if (ENLARGED) {
                int image = row / pixels;
                ly = lerp_at(row % pixels / p.width, p.small_height, p.height);
                lx = lerp_at(row % p.width, p.small_width, p.width);
                small = p.enlarged + (u64)image * p.small_height * p.small_width * p.outputs;
            }
#pragma unroll
            for (int j = 0; j < COLUMNS; j++) {
                int output = output0 + warp % 2 * HALF + 8 * j + pair;
                if (output >= p.outputs) continue;
                float v0 = sum[i][j][2 * below], v1 = sum[i][j][2 * below + 1];
                if (p.bias != 0) {
                    v0 += p.bias[output];
                    v1 += p.bias[output + 1];
                }
                if (ENLARGED) {
                    auto corner = [&](int y, int x) {
                        return *(const u32*)(small + (y * p.small_width + x) * p.outputs + output);
                    };
                    u32 c00 = corner(ly.first, lx.first), c01 = corner(ly.first, lx.next);
                    u32 c10 = corner(ly.next, lx.first), c11 = corner(ly.next, lx.next);
                    float y0 = 1 - ly.weight, x0 = 1 - lx.weight;
                    v0 += y0 * (x0 * low(c00) + lx.weight * low(c01)) +
                          ly.weight * (x0 * low(c10) + lx.weight * low(c11));
                    v1 += y0 * (x0 * high(c00) + lx.weight * high(c01)) +
                          ly.weight * (x0 * high(c10) + lx.weight * high(c11));
                }
                u64 at = (u64)row * p.outputs + output;
                if (p.add != 0) {
                    u32 add = *(const u32*)(p.add + at);
                    v0 += low(add);
                    v1 += high(add);
                }
                if (p.planes) {
                    int image = row / pixels;
                    at = (((u64)image * (p.outputs / 8) + output / 8) * pixels + (row - image * pixels)) * 8 + output % 8;
                }
                *(u32*)(p.out + at) = pack(activated(v0, p.act), activated(v1, p.act));
            }
        }
    }
}

KERNEL THREADS(128) product64(Product p) { product<64, false, false>(p); }
KERNEL THREADS(128) product64_factors(Product p) { product<64, true, false>(p); }
KERNEL THREADS(128) product64_enlarged(Product p) { product<64, false, true>(p); }
KERNEL THREADS(128) product32(Product p) { product<32, false, false>(p); }
KERNEL THREADS(128) product32_factors(Product p) { product<32, true, false>(p); }
KERNEL THREADS(128) product32_enlarged(Product p) { product<32, false, true>(p); }

// ---- the decoder's poolings -------------------------------------------------------------------------------------------

// One pooling of a chain: pooled = the 5x5 maxima of top; sum_out = sum_in + top + pooled. A block has 16x8 pixels and 32
// channels of an image; gridDim.z = images x channels / 32.
struct Pool {
    const u16* top;
    const u16* sum_in;  // or null: 0
    u16* pooled;
    u16* sum_out;
    int height, width, channels;
};

#define POOL_WIDTH 16
#define POOL_HEIGHT 8
#define POOL_THREADS 256

KERNEL THREADS(POOL_THREADS) pool(Pool p) {
    SHARED Eight whole[(POOL_HEIGHT + 4) * (POOL_WIDTH + 4) * 4];
    SHARED Eight across[(POOL_HEIGHT + 4) * POOL_WIDTH * 4];
    int groups = p.channels / 8, parts = p.channels / 32;
    int image = blockIdx.z / parts, group0 = blockIdx.z % parts * 4;
    int x0 = blockIdx.x * POOL_WIDTH, y0 = blockIdx.y * POOL_HEIGHT;
    u64 base = (u64)image * p.height * p.width * groups + group0;
    const Eight* top = (const Eight*)p.top + base;
    wait_for_input();
    constexpr int ALL = (POOL_HEIGHT + 4) * (POOL_WIDTH + 4) * 4, EACH = (ALL + POOL_THREADS - 1) / POOL_THREADS;
    Eight own[EACH];
#pragma unroll
    for (int k = 0; k < EACH; k++) {
        int i = threadIdx.x + POOL_THREADS * k;
        int g = i % 4, x = x0 + i / 4 % (POOL_WIDTH + 4) - 2, y = y0 + i / 4 / (POOL_WIDTH + 4) - 2;
        bool is_inside = i < ALL && x >= 0 && x < p.width && y >= 0 && y < p.height;
        own[k] = is_inside ? top[(y * p.width + x) * groups + g] : eight_of(NONE_LOWEST);
    }
#pragma unroll
    for (int k = 0; k < EACH; k++) {
        int i = threadIdx.x + POOL_THREADS * k;
        if (i < ALL) whole[i] = own[k];
    }
    __syncthreads();
#pragma unroll
    for (int i = threadIdx.x; i < (POOL_HEIGHT + 4) * POOL_WIDTH * 4; i += POOL_THREADS) {
        int g = i % 4, x = i / 4 % POOL_WIDTH, y = i / 4 / POOL_WIDTH;
        const Eight* line = whole + (y * (POOL_WIDTH + 4) + x) * 4 + g;
        Eight m = line[0];
#pragma unroll
        for (int k = 1; k < 5; k++) m = max8(m, line[4 * k]);
        across[i] = m;
    }
    __syncthreads();
#pragma unroll
    for (int i = threadIdx.x; i < POOL_HEIGHT * POOL_WIDTH * 4; i += POOL_THREADS) {
        int g = i % 4, x = i / 4 % POOL_WIDTH, y = i / 4 / POOL_WIDTH;
        if (x0 + x >= p.width || y0 + y >= p.height) continue;
        Eight m = across[i];
#pragma unroll
        for (int k = 1; k < 5; k++) m = max8(m, across[i + 4 * POOL_WIDTH * k]);
        u64 at = base + ((u64)(y0 + y) * p.width + x0 + x) * groups + g;
        float pooled[8], sum[8];
        unpack(m, pooled);
        unpack(whole[((y + 2) * (POOL_WIDTH + 4) + x + 2) * 4 + g], sum);
#pragma unroll
        for (int c = 0; c < 8; c++) sum[c] += pooled[c];
        if (p.sum_in != 0) {
            float before[8];
            unpack(((const Eight*)p.sum_in)[at], before);
#pragma unroll
            for (int c = 0; c < 8; c++) sum[c] += before[c];
        }
        ((Eight*)p.pooled)[at] = m;
        ((Eight*)p.sum_out)[at] = packed(sum);
    }
}

// The 1/4 stage: ReLU6 of block 1's projection and the enlarged decoder, then four poolings with a factor a channel
// after each, all added up.
//
// A block has 32 C columns, a strip of rows (and eight more at each side, two for each pooling) and 8 channels, and goes
// down two rows a turn. Four warps make the stage's input; four are the first two poolings, of two channels each; four are
// the last two, a turn behind, and write what they have made another turn later. A lane of a pooling has C columns beside
// each other: what it needs of its neighbours' comes by shuffles, and of the rows above it keeps four rows' maxima, so that
// only rows of what one warp hands to another lie in shared memory. gridDim.z = images x channels / 8.
struct Quarter {
    const u16* block1;  // [image][height][width][16]
    const u16* eighth;  // [image][channels / 8][small_height][small_width][8]
    const float* conv6;  // [channels][16]
    const float* scales;  // [4][channels]
    u16* out;  // [image][channels / 8][height][width][8]
    int height, width, small_height, small_width, channels, strip;
};

#define QUARTER_HALO 8
#define QUARTER_THREADS 384

// A row of a map in shared memory: its pairs of channels by planes. Of eight columns a lane, the second four lie apart, so
// that whoever goes along lanes, columns or pairs finds all banks.
template <int C>
struct ALIGNED QuarterRow {
    static constexpr int APART = 144, PLANE = C == 8 ? 2 * APART + 4 : 32 * C + 8;
    u32 value[4 * PLANE];

    DEVICE_MEMBER static int at(int pair, int column) {
        return pair * PLANE + (C == 8 ? column % 8 / 4 * APART + column / 8 * 4 + column % 4 : column);
    }
};

// Rows of two turns or three: one is written while those before are read. layers.rs knows the size.
template <int C>
struct QuarterRoom {
    static constexpr int SMALL = 4 * C + 16;  // columns of the decoder's map under a quarter of the block's
    QuarterRow<C> inputs[3][2];
    QuarterRow<C> tops[2][2];
    QuarterRow<C> sums[3][2];  // of the first two poolings; then the answer
    Eight small[4][4][SMALL];  // of each warp that makes the input, the last rows
};

static_assert(sizeof(QuarterRoom<8>) == 87040 && sizeof(QuarterRoom<4>) == 43008, "as layers.rs says");

// What a block of `quarter` works on.
struct QuarterBlock {
    int image, group, groups;
    int x0;                // of column 0
    int from_x, to_x;      // columns of the answer
    int first, last;       // rows of the answer
    int start, end;        // rows of the input
    int turns;
};

// The stage's input, two rows a turn. A lane has of each tile of 16 columns two, and of these two channels: as the tensor
// cores give the projection. They enlarge along rows, too: a tile's weights are a matrix
// of 16 columns of the decoder's map; each of its rows is so enlarged once.
template <int C>
DEVICE void quarter_input(const Quarter& p, const QuarterBlock& b, QuarterRoom<C>& room) {
    constexpr int TILES = C / 2, SMALL = QuarterRoom<C>::SMALL;
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, pair = lane % 4;
    // A lane has four inputs of a pixel that lie beside each other: their order is the weights'.
    const float* line = p.conv6 + (b.group * 8 + lane / 4) * 16 + 4 * pair;
    u32 projection[2] = {pack(line[0], line[1]), pack(line[2], line[3])};
    auto inside = [&](int x) { return x < p.width ? x : p.width - 1; };
    float ratio = (float)p.small_width / (float)p.width, down = (float)p.small_height / (float)p.height;
    int column = warp * 8 * C;
    int small0 = lerp_by(inside(b.x0 + column), p.small_width, ratio).first;
    // Of each tile: the first column of the decoder's map, the weights, and the most of a value: ReLU6's, and of what is
    // not in the image minus infinity.
    int small_at[TILES];
    u32 across[TILES][4];
    u32 most[TILES][2];
#pragma unroll
    for (int j = 0; j < TILES; j++) {
        int from = lerp_by(inside(b.x0 + column + 16 * j), p.small_width, ratio).first;
        small_at[j] = from - small0 + lane % 16;
#pragma unroll
        for (int below = 0; below < 2; below++) {
            int x = b.x0 + column + 16 * j + 8 * below + lane / 4;
            Lerp l = lerp_by(inside(x), p.small_width, ratio);
            most[j][below] = x < p.width ? SIX_SIX : NONE_LOWEST;
#pragma unroll
            for (int half = 0; half < 2; half++) {
                auto weight = [&](int k) {
                    return (k == l.first - from ? 1 - l.weight : 0) + (k == l.next - from ? l.weight : 0);
                };
                int k = 8 * half + 2 * pair;
                across[j][below + 2 * half] = pack(weight(k), weight(k + 1));
            }
        }
    }
    u64 pixels = (u64)p.height * p.width, small_pixels = (u64)p.small_height * p.small_width;
    const Two* block1 = (const Two*)p.block1 + ((u64)b.image * pixels + b.x0 + column + lane / 4) * 4 + pair;
    const Eight* eighth = (const Eight*)p.eighth + ((u64)b.image * b.groups + b.group) * small_pixels;
    wait_for_input();

    auto fetch_small = [&](int row) {
        const Eight* from = eighth + row * p.small_width;
#pragma unroll
        for (int k = lane; k < SMALL; k += 32) {
            // What is beyond has no weight.
            int x = small0 + k < p.small_width ? small0 + k : p.small_width - 1;
            copy_async(&room.small[warp][row & 3][k], from + x, true);
        }
    };
    float top[TILES][4], bottom[TILES][4];
    auto enlarge = [&](int row, float (&to)[TILES][4]) {
#pragma unroll
        for (int j = 0; j < TILES; j++) {
            u32 columns[2];
            load_b(columns, &room.small[warp][row & 3][small_at[j]]);
#pragma unroll
            for (int k = 0; k < 4; k++) to[j][k] = 0;
            mma(to[j], across[j], columns);
        }
    };
    u32 pixel[2][TILES][4];
#pragma unroll
    for (int i = 0; i < 8 * TILES; i++) pixel[i / 4 / TILES][i / 4 % TILES][i % 4] = 0;
    auto fetch_pixels = [&](int turn) {
        int y = b.start + 2 * turn;
        if (y >= b.end) return;
        const Two* from[2] = {block1 + y * p.width * 4, block1 + (y + 1 < b.end ? y + 1 : y) * p.width * 4};
#pragma unroll
        for (int j = 0; j < TILES; j++) {
#pragma unroll
            for (int below = 0; below < 2; below++) {
                if (most[j][below] != SIX_SIX) continue;
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    Two inputs = from[i][4 * (16 * j + 8 * below)];
                    pixel[i][j][below] = inputs.value[0];
                    pixel[i][j][below + 2] = inputs.value[1];
                }
            }
        }
    };
    // The decoder's rows that an input's row lies between; the map is at most as high as the input, so that from row to row
    // there is at most one more.
    auto between = [&](int y) { return lerp_by(y < b.end ? y : b.end - 1, p.small_height, down); };
    Lerp l = between(b.start);
    int first = l.first, next = l.next;
    fetch_small(first);
    if (next != first) fetch_small(next);
    copies_end();
    fetch_pixels(0);
    copies_wait<0>();
    sync_warp();
    enlarge(first, top);
    enlarge(next, bottom);
    sync_warp();
    int fetched = between(b.start + 1).next;
    if (fetched != next) fetch_small(fetched);
    copies_end();

    int slot = 0;  // of three
    for (int t = 0; t < b.turns; t++) {
        // For the next turn.
#pragma unroll 1
        for (int until = between(b.start + 2 * t + 3).next; fetched < until;) fetch_small(++fetched);
        copies_end();
        copies_wait<1>();
        sync_warp();
#pragma unroll
        for (int i = 0; i < 2; i++) {
            int y = b.start + 2 * t + i;
            u32* to = room.inputs[slot][i].value + QuarterRow<C>::at(pair, column + lane / 4);
            auto put = [&](int j, int below, u32 value) { to[QuarterRow<C>::at(0, 16 * j + 8 * below)] = value; };
            if (y >= b.end) {
#pragma unroll
                for (int j = 0; j < TILES; j++) {
                    put(j, 0, NONE_LOWEST);
                    put(j, 1, NONE_LOWEST);
                }
                continue;
            }
            Lerp l = between(y);
            if (l.first != first) {
                first = l.first;
#pragma unroll
                for (int j = 0; j < TILES; j++)
#pragma unroll
                    for (int k = 0; k < 4; k++) top[j][k] = bottom[j][k];
                if (l.next != next) {
                    next = l.next;
                    enlarge(next, bottom);
                }
            }
#pragma unroll
            for (int j = 0; j < TILES; j++) {
                float sum[4];
#pragma unroll
                for (int k = 0; k < 4; k++) sum[k] = (1 - l.weight) * top[j][k] + l.weight * bottom[j][k];
                mma(sum, pixel[i][j], projection);
#pragma unroll
                for (int below = 0; below < 2; below++) {
                    put(j, below, min2(pack_relu(sum[2 * below], sum[2 * below + 1]), most[j][below]));
                }
            }
        }
        fetch_pixels(t + 1);
        slot = slot == 2 ? 0 : slot + 1;
        __syncthreads();
    }
}

// Of a pooling's last rows, each the maxima along itself, of a lane's columns.
template <int C>
struct QuarterPool {
    u32 older[C], second[C];  // of the rows three and four before the next: the maxima of both, and the later one
    u32 newer[C], last[C];    // of the last two
    u32 scale, both;          // of the next pooling's input; of what is added: the maxima and that
};

// The maxima of five columns of each row.
template <int C>
DEVICE void maxima_along(u32 (&row)[C]) {
    u32 x[C + 4];
    u32 edge[2] = {row[0], row[1]}, other[2] = {row[C - 2], row[C - 1]}, left[2], right[2];
    beside(edge, other, left, right);
    int lane = threadIdx.x % 32;
#pragma unroll
    for (int c = 0; c < 2; c++) {
        x[c] = lane > 0 ? left[c] : NONE_LOWEST;
        x[C + 2 + c] = lane < 31 ? right[c] : NONE_LOWEST;
    }
#pragma unroll
    for (int c = 0; c < C; c++) x[c + 2] = row[c];
    // By fives: any five columns are the end of one and the beginning of the next (van Herk, Gil and Werman).
    u32 beginning[C + 4], end[C + 4];
#pragma unroll
    for (int i = 0; i < C + 4; i++) beginning[i] = i % 5 == 0 ? x[i] : max2(beginning[i - 1], x[i]);
#pragma unroll
    for (int i = C + 3; i >= 0; i--) end[i] = i % 5 == 4 || i == C + 3 ? x[i] : max2(end[i + 1], x[i]);
#pragma unroll
    for (int c = 0; c < C; c++) row[c] = c % 5 == 0 ? end[c] : max2(end[c], beginning[c + 4]);
}

// Two rows become the maxima of five by five, two rows before.
template <int C>
DEVICE void pool_two(u32 (&rows)[2][C], QuarterPool<C>& pool) {
    maxima_along(rows[0]);
    maxima_along(rows[1]);
#pragma unroll
    for (int c = 0; c < C; c++) {
        u32 row0 = rows[0][c], row1 = rows[1][c], both = max2(row0, row1);
        rows[0][c] = max2(pool.older[c], max2(pool.newer[c], row0));
        rows[1][c] = max2(pool.second[c], max2(pool.newer[c], both));
        pool.older[c] = pool.newer[c];
        pool.second[c] = pool.last[c];
        pool.newer[c] = both;
        pool.last[c] = row1;
    }
}

// Writes two rows of the answer, of which `y` is the first: a quarter of the columns a warp, all channels.
template <int C>
DEVICE void quarter_answer(const Quarter& p, const QuarterBlock& b, const QuarterRow<C> (&rows)[2], int y) {
    Eight* out = (Eight*)p.out + ((u64)b.image * b.groups + b.group) * p.height * p.width;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        if (y + i < b.first || y + i >= b.last) continue;
#pragma unroll
        for (int k = 0; k < C / 4; k++) {
            int column = threadIdx.x / 32 % 4 * 8 * C + 32 * k + threadIdx.x % 32, x = b.x0 + column;
            Eight answer;
#pragma unroll
            for (int c = 0; c < 4; c++) answer.pair[c] = rows[i].value[QuarterRow<C>::at(c, column)];
            if (x >= b.from_x && x < b.to_x) out[(y + i) * p.width + x] = answer;
        }
    }
}

// Two poolings of two channels: the first ones, or the last ones.
template <int C, int FIRST>
DEVICE void quarter_pools(const Quarter& p, const QuarterBlock& b, QuarterRoom<C>& room) {
    int lane = threadIdx.x % 32, pair = threadIdx.x / 32 % 4;
    QuarterPool<C> pools[2];
#pragma unroll
    for (int stage = 0; stage < 2; stage++) {
        const float* scale = p.scales + (FIRST + stage) * p.channels + b.group * 8 + 2 * pair;
        pools[stage].scale = pack(scale[0], scale[1]);
        pools[stage].both = pack(1 + scale[0], 1 + scale[1]);
#pragma unroll
        for (int c = 0; c < C; c++) {
            pools[stage].older[c] = pools[stage].second[c] = NONE_LOWEST;
            pools[stage].newer[c] = pools[stage].last[c] = NONE_LOWEST;
        }
    }
    // Added to what goes into the next pooling: of what is not in the image, minus infinity. Where that gives what is no
    // number, maxima take no notice of it, either.
    u32 outside[C];
#pragma unroll
    for (int c = 0; c < C; c++) outside[c] = b.x0 + C * lane + c < p.width ? 0 : NONE_LOWEST;
    // Sums that belong to the next turn's maxima, as these come two rows later.
    u32 before[2][2][C];
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int c = 0; c < C; c++) before[i / 2][i % 2][c] = 0;
    wait_for_input();
    auto place = [&](int k) { return QuarterRow<C>::at(pair, C * lane + 4 * k); };
    auto load = [&](const QuarterRow<C>& row, u32 (&to)[C]) {
#pragma unroll
        for (int k = 0; k < C / 4; k++) {
            Eight four = *(const Eight*)(row.value + place(k));
#pragma unroll
            for (int c = 0; c < 4; c++) to[4 * k + c] = four.pair[c];
        }
    };
    auto store = [&](const u32 (&from)[C], QuarterRow<C>& row) {
#pragma unroll
        for (int k = 0; k < C / 4; k++) {
            *(Eight*)(row.value + place(k)) =
                Eight{{from[4 * k], from[4 * k + 1], from[4 * k + 2], from[4 * k + 3]}};
        }
    };
    // What goes into the next pooling; `y` is the first of the two rows.
    auto scaled = [&](u32 (&rows)[2][C], u32 scale, int y) {
        bool are_rows[2] = {y >= b.start && y < b.end, y + 1 >= b.start && y + 1 < b.end};
        if (are_rows[0] && are_rows[1]) {
#pragma unroll
            for (int c = 0; c < C; c++) {
                rows[0][c] = fma2(rows[0][c], scale, outside[c]);
                rows[1][c] = fma2(rows[1][c], scale, outside[c]);
            }
            return;
        }
#pragma unroll
        for (int c = 0; c < C; c++) {
            rows[0][c] = are_rows[0] ? fma2(rows[0][c], scale, outside[c]) : NONE_LOWEST;
            rows[1][c] = are_rows[1] ? fma2(rows[1][c], scale, outside[c]) : NONE_LOWEST;
        }
    };
    // The first row that comes.
    int y = b.start - (FIRST == 0 ? 0 : 4);
    // Of three, in this turn, in the turn before and in the one before that.
    int t = 0, slot = 0, slot1 = 2, slot2 = 1;
    auto next_turn = [&] {
        slot2 = slot1;
        slot1 = slot;
        slot = slot == 2 ? 0 : slot + 1;
        __syncthreads();
    };
    // Nothing has come before.
    for (; t < 1 + FIRST / 2; t++) next_turn();
    // By two, so that what is older than something needs not be moved where that was.
#pragma unroll 2
    for (; t < b.turns; t++) {
        // The turn before has made rows four before those that it got, which were two before these.
        if (FIRST > 0) quarter_answer<C>(p, b, room.sums[slot2], y - 6);
            u32 rows[2][C], sums[2][C];
#pragma unroll
            for (int i = 0; i < 2; i++) load(FIRST == 0 ? room.inputs[slot1][i] : room.tops[(t + 1) % 2][i], rows[i]);
            pool_two(rows, pools[0]);
#pragma unroll
            for (int i = 0; i < 2; i++) {
                u32 added[C];
                // What comes is what the first pooling adds to: the rows of the turn before are still there.
                if (FIRST == 0) load(room.inputs[slot2][i], added);
#pragma unroll
                for (int c = 0; c < C; c++) {
                    sums[i][c] = fma2(rows[i][c], pools[0].both, FIRST == 0 ? added[c] : before[0][i][c]);
                }
                if (FIRST > 0) load(room.sums[slot1][i], before[0][i]);
            }
            scaled(rows, pools[0].scale, y - 2);
            pool_two(rows, pools[1]);
#pragma unroll
            for (int i = 0; i < 2; i++) {
                u32 sum[C];
#pragma unroll
                for (int c = 0; c < C; c++) {
                    sum[c] = fma2(rows[i][c], pools[1].both, before[1][i][c]);
                    before[1][i][c] = sums[i][c];
                }
                store(sum, room.sums[FIRST == 0 ? slot : slot1][i]);
            }
            if (FIRST == 0) {
                scaled(rows, pools[1].scale, y - 4);
#pragma unroll
                for (int i = 0; i < 2; i++) store(rows[i], room.tops[t % 2][i]);
            }
            y += 2;
            next_turn();
    }
}

template <int C>
DEVICE void quarter(const Quarter& p) {
    DYNAMIC_SHARED(u16, room_of_all);
    QuarterRoom<C>& room = *(QuarterRoom<C>*)room_of_all;
    constexpr int COLUMNS = 32 * C;
    QuarterBlock b;
    b.groups = p.channels / 8;
    b.image = blockIdx.z / b.groups;
    b.group = blockIdx.z % b.groups;
    b.x0 = blockIdx.x * (COLUMNS - 2 * QUARTER_HALO);
    // At the image's edges there is nothing to see beyond.
    b.from_x = blockIdx.x == 0 ? 0 : b.x0 + QUARTER_HALO;
    b.to_x = b.x0 + COLUMNS < p.width ? b.x0 + COLUMNS - QUARTER_HALO : p.width;
    b.first = blockIdx.y * p.strip;
    b.last = b.first + p.strip < p.height ? b.first + p.strip : p.height;
    b.start = b.first > QUARTER_HALO ? b.first - QUARTER_HALO : 0;
    b.end = b.last + QUARTER_HALO < p.height ? b.last + QUARTER_HALO : p.height;
    // From the first row of the input to the last of the answer, which comes eight rows and three turns later.
    b.turns = (b.last - b.start + QUARTER_HALO + 1) / 2 + 3;
    switch (threadIdx.x / 128) {
        case 0:
            return quarter_input<C>(p, b, room);
        case 1:
            return quarter_pools<C, 0>(p, b, room);
        default:
            return quarter_pools<C, 2>(p, b, room);
    }
}

KERNEL THREADS(QUARTER_THREADS) quarter4(Quarter p) { quarter<4>(p); }
KERNEL THREADS(QUARTER_THREADS) quarter8(Quarter p) { quarter<8>(p); }

// ---- the heads --------------------------------------------------------------------------------------------------------

// answer = 3x3 convolution of relu6(pre * in) + bias, of one head or two. A block has 16 columns and 2 ROWS rows of an image
// and goes through the channels by 32: the map comes once for both heads, of which each makes its own input of it. A head
// has four warps, each with half of the rows and half of the channels. gridDim.z = images.
struct Head {
    // [channels / 8, padded to four][2][8]: a sixth of the factor, as what is activated is a sixth of ReLU6; and what half
    // precision has left of that
    const u16* pre;
    // [channels / 32][half of them][column of the filter][row][outputs / 8][lane][4]: as `mma` takes b
    const u16* weight;
    const float* bias;  // [outputs]
    int outputs, first;  // channels of the answer, from which; a second head may have none
};

#define HEADS_AT_ONCE 2
#define HEADS_THREADS 256
#define HEAD_TILES 4   // of eight outputs, the most of a head
#define HEAD_CHUNK 32  // channels at a time
#define HEAD_WIDTH 18  // columns of the map that a block sees

struct Heads {
    const u16* in;  // [image][channels / 8][height][width][8]
    float* answer;  // [image][height][width][answer_channels]
    u8* best;  // [image][height][width]: the greatest of the first head's outputs, the first among equals; or null
    int height, width, channels, answer_channels;
    Head head[HEADS_AT_ONCE];
};

// Shared memory of a block, layers.rs knows the size: the map as it comes, each head's input, its weights of this chunk and
// of the next, its factors. The heads' sums lie there in the end.
template <int ROWS>
struct HeadRoom {
    static constexpr int PIXELS = HEAD_WIDTH * (2 * ROWS + 2), VECTORS = HEAD_CHUNK / 8;
    Eight *raw, *active, *weight, *pre;
    int tiles, first_tiles;  // of all heads, of the first
};

// The number of tiles is known to the compiler. Rows of the map are multiplied with all that they belong to: each is read
// once for each column of the filter.
template <int ROWS, int TILES>
DEVICE void head_sums(const HeadRoom<ROWS>& room, int head, int chunk, float (&sum)[ROWS][TILES > 0 ? TILES : 1][4]) {
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, part = warp / 2 % 2;
    const Eight* active = room.active + head * room.PIXELS * room.VECTORS;
    const Eight* weight = room.weight + (chunk % 2 * room.tiles + head * room.first_tiles) * 9 * HEAD_CHUNK;
    const Two* own = (const Two*)weight + part * 9 * TILES * 32 + lane;
#pragma unroll
    for (int dx = 0; dx < 3; dx++) {
        int x = dx + lane % 16;
        int vector = (2 * part + lane / 16) ^ (x / 2 % 4);
        const Eight* line = active + (warp % 2 * ROWS * HEAD_WIDTH + x) * room.VECTORS + vector;
        u32 w[3][TILES > 0 ? TILES : 1][2];
#pragma unroll
        for (int dy = 0; dy < 3; dy++)
#pragma unroll
            for (int j = 0; j < TILES; j++) {
                Two two = own[((dx * 3 + dy) * TILES + j) * 32];
                w[dy][j][0] = two.value[0];
                w[dy][j][1] = two.value[1];
            }
#pragma unroll
        for (int row = 0; row < ROWS + 2; row++) {
            u32 a[4];
            load_a(a, line + row * HEAD_WIDTH * room.VECTORS);
#pragma unroll
            for (int dy = 0; dy < 3; dy++) {
                if (row - dy < 0 || row - dy >= ROWS) continue;
#pragma unroll
                for (int j = 0; j < TILES; j++) mma(sum[row - dy][j], a, w[dy][j]);
            }
        }
    }
}

// The sums of both halves of the channels come together in shared memory, with the bias, each of the two warps ending some
// of the rows. There lie all outputs of a pixel beside each other, as they do in the answer.
template <int ROWS, int TILES>
DEVICE void head_answers(const Heads& p, float* all, int index, const float (&sum)[ROWS][TILES > 0 ? TILES : 1][4]) {
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, own = lane % 4 * 2;
    int first = p.head[0].outputs, outputs = index == 0 ? first : p.head[1].outputs, together = first + p.head[1].outputs;
    const float* bias = index == 0 ? p.head[0].bias : p.head[1].bias;
    float* to = all + (warp % 2 * ROWS * 16 + lane / 4) * together + index * first + own;
    __syncthreads();
#pragma unroll
    for (int pass = 0; pass < 2; pass++) {
#pragma unroll
        for (int row = 0; row < ROWS; row++) {
            bool is_end = (row < (ROWS + 1) / 2) == (warp / 2 % 2 == 0);
            if (is_end != (pass == 1)) continue;
#pragma unroll
            for (int i = 0; i < TILES * 4; i++) {
                int output = i / 4 * 8 + i % 2;
                if (own + output >= outputs) continue;
                float* at = to + (row * 16 + i % 4 / 2 * 8) * together + output;
                *at = pass == 0 ? sum[row][i / 4][i % 4] + bias[own + output] : *at + sum[row][i / 4][i % 4];
            }
        }
        __syncthreads();
    }
}

// What lies in shared memory then goes into the answer, and the greatest of each pixel's scores is found.
template <int ROWS>
DEVICE void head_ends(const Heads& p, const float* all) {
    int scores = p.head[0].outputs, together = scores + p.head[1].outputs, first = p.head[0].first;
    int x0 = blockIdx.x * 16, y0 = blockIdx.y * 2 * ROWS, columns = p.width - x0 < 16 ? p.width - x0 : 16;
    for (int row = threadIdx.x / 32; row < 2 * ROWS && y0 + row < p.height; row += HEADS_THREADS / 32) {
        const float* from = all + row * 16 * together;
        float* to = p.answer + (((u64)blockIdx.z * p.height + y0 + row) * p.width + x0) * p.answer_channels + first;
        if (together == p.answer_channels) {
            for (int i = threadIdx.x % 32; i < columns * together; i += 32) to[i] = from[i];
        } else {
            for (int i = threadIdx.x % 32; i < columns * together; i += 32) {
                to[i / together * p.answer_channels + i % together] = from[i];
            }
        }
    }
    if (p.best == 0) return;
    for (int i = threadIdx.x; i < 2 * ROWS * 16; i += HEADS_THREADS) {
        int x = x0 + i % 16, y = y0 + i / 16, best = 0;
        if (x >= p.width || y >= p.height) continue;
        float greatest = NEGATIVE_INFINITY;
        for (int c = 0; c < scores; c++) {
            float score = all[i * together + c];
            if (score > greatest) {
                greatest = score;
                best = c;
            }
        }
        p.best[((u64)blockIdx.z * p.height + y) * p.width + x] = (u8)best;
    }
}

// All that a warp does, for a head of so many tiles.
template <int ROWS, int TILES>
DEVICE void head(const Heads& p, const HeadRoom<ROWS>& room, int count) {
    constexpr int PIXELS = HeadRoom<ROWS>::PIXELS, VECTORS = HeadRoom<ROWS>::VECTORS;
    constexpr int EACH = (PIXELS * VECTORS + HEADS_THREADS - 1) / HEADS_THREADS;
    int index = threadIdx.x / 128, chunks = (p.channels + HEAD_CHUNK - 1) / HEAD_CHUNK, planes = p.channels / 8;
    auto fetch_weights = [&](int chunk) {
        constexpr int TILE = 9 * HEAD_CHUNK;  // vectors of eight outputs
        Eight* to = room.weight + chunk % 2 * room.tiles * TILE;
        auto fetch = [&](const u16* weight, int tiles) {
            const Eight* from = (const Eight*)weight + chunk * tiles * TILE;
#pragma unroll 1
            for (int i = threadIdx.x; i < tiles * TILE; i += HEADS_THREADS) copy_async(to + i, from + i, true);
            to += tiles * TILE;
        };
        fetch(p.head[0].weight, room.first_tiles);
        fetch(p.head[1].weight, room.tiles - room.first_tiles);
    };
    // Where each of a thread's vectors comes from is the same for every chunk, and so is where what becomes of it goes: there
    // vectors of pixels beside each other come to lie in different banks.
    auto is_vector = [](int k) {
        return (k + 1) * HEADS_THREADS <= PIXELS * VECTORS || threadIdx.x + HEADS_THREADS * k < PIXELS * VECTORS;
    };
    int from[EACH], to[EACH];
#pragma unroll
    for (int k = 0; k < EACH; k++) {
        int i = threadIdx.x + HEADS_THREADS * k, plane = i / PIXELS, pixel = i % PIXELS;
        int x = blockIdx.x * 16 + pixel % HEAD_WIDTH - 1, y = blockIdx.y * 2 * ROWS + pixel / HEAD_WIDTH - 1;
        bool is_inside = x >= 0 && x < p.width && y >= 0 && y < p.height;
        from[k] = is_inside ? (plane * p.height + y) * p.width + x : -1;
        to[k] = pixel * VECTORS + (plane ^ (pixel % HEAD_WIDTH / 2 % 4));
    }
    auto fetch_map = [&](int chunk) {
        const Eight* in = (const Eight*)p.in + ((u64)blockIdx.z * planes + chunk * VECTORS) * p.height * p.width;
#pragma unroll
        for (int k = 0; k < EACH; k++) {
            if (!is_vector(k)) break;
            int i = threadIdx.x + HEADS_THREADS * k;
            bool is_there = from[k] >= 0 && chunk * VECTORS + i / PIXELS < planes;
            copy_async(room.raw + i, in + (is_there ? from[k] : 0), is_there);
        }
    };
    // Weights are there before the kernel before has ended.
    fetch_weights(0);
    int padded = chunks * VECTORS * 2;
    for (int i = threadIdx.x; i < count * padded; i += HEADS_THREADS) {
        const u16* pre = i < padded ? p.head[0].pre : p.head[1].pre;
        copy_async(room.pre + i, (const Eight*)pre + i % padded, true);
    }
    wait_for_input();
    fetch_map(0);
    copies_end();
    float sum[ROWS][TILES > 0 ? TILES : 1][4];
#pragma unroll
    for (int i = 0; i < ROWS * TILES * 4; i++) sum[i / 4 / TILES][i / 4 % TILES][i % 4] = 0;
#pragma unroll 1
    for (int chunk = 0; chunk < chunks; chunk++) {
        copies_wait<0>();
        __syncthreads();
        Eight own[EACH];
#pragma unroll
        for (int k = 0; k < EACH; k++) {
            own[k] = room.raw[is_vector(k) ? threadIdx.x + HEADS_THREADS * k : 0];
        }
#pragma unroll
        for (int h = 0; h < HEADS_AT_ONCE; h++) {
            if (h == count) break;
#pragma unroll
            for (int k = 0; k < EACH; k++) {
                if (!is_vector(k)) break;
                int vector = (threadIdx.x + HEADS_THREADS * k) / PIXELS;
                const Eight* pre = room.pre + h * padded + (chunk * VECTORS + vector) * 2;
                Eight coarse = pre[0], fine = pre[1], sixth;
#pragma unroll
                for (int c = 0; c < 4; c++) {
                    u32 pair = own[k].pair[c];
                    sixth.pair[c] = fma2_saturated(pair, coarse.pair[c], mul2(pair, fine.pair[c]));
                }
                room.active[h * PIXELS * VECTORS + to[k]] = sixth;
            }
        }
        __syncthreads();
        if (chunk + 1 < chunks) {
            fetch_weights(chunk + 1);
            fetch_map(chunk + 1);
            copies_end();
        }
        if (TILES > 0) head_sums<ROWS, TILES>(room, index, chunk, sum);
    }
    head_answers<ROWS, TILES>(p, (float*)room.raw, index, sum);
}

template <int ROWS>
DEVICE void heads(const Heads& p) {
    DYNAMIC_SHARED(u16, room_of_all);
    int first = (p.head[0].outputs + 7) / 8, second = (p.head[1].outputs + 7) / 8, count = second > 0 ? 2 : 1;
    HeadRoom<ROWS> room;
    room.first_tiles = first;
    room.tiles = first + second;
    room.raw = (Eight*)room_of_all;
    room.active = room.raw + room.PIXELS * room.VECTORS;
    room.weight = room.active + count * room.PIXELS * room.VECTORS;
    room.pre = room.weight + 2 * room.tiles * 9 * HEAD_CHUNK;
    switch (threadIdx.x < 128 ? first : second) {
        case 0:
            head<ROWS, 0>(p, room, count);
            break;
        case 1:
            head<ROWS, 1>(p, room, count);
            break;
        case 2:
            head<ROWS, 2>(p, room, count);
            break;
        case 3:
            head<ROWS, 3>(p, room, count);
            break;
        default:
            head<ROWS, 4>(p, room, count);
    }
    head_ends<ROWS>(p, (const float*)room.raw);
}

KERNEL THREADS_TIMES(HEADS_THREADS, 1) heads3(Heads p) { heads<3>(p); }
KERNEL THREADS(HEADS_THREADS) heads7(Heads p) { heads<7>(p); }

// ---- after the network ------------------------------------------------------------------------------------------------

// Where an output's row or column lies in the answer; `first` is negative where the network saw nothing.
struct Place {
    int first, next;
    float weight;
};

enum { DEPTH_LOG = 0, DEPTH_METRES = 1, DEPTH_INVERSE = 2 };

// Labels and metres at the output's size, each where it is wanted. One thread four pixels of a row.
struct Outputs {
    const float* answer;  // [answer_height][answer_width][channels]
    const u8* best;  // [answer_height][answer_width]
    const Place* columns;
    const Place* rows;
    u8* labels;     // [height][width], or null
    float* depth;   // [height][width], or null
    int answer_width, channels, scores, depth_channel, code;
    int width, height;
    float scale, min_m, max_m, factor;
    u8 ids[256];
};

DEVICE float metres(const Outputs& p, float code) {
    float depth;
    if (p.code == DEPTH_LOG) {
        depth = expf(code * p.scale);
    } else if (p.code == DEPTH_METRES) {
        depth = code * p.scale;
    } else {
        depth = code > 0 ? p.scale / code : -NEGATIVE_INFINITY;
    }
    depth = depth < p.min_m ? p.min_m : depth;
    depth = depth > p.max_m ? p.max_m : depth;
    // Infinity minus itself is no number either.
    return code - code == 0 ? p.factor * depth : QUIET_NAN;
}

KERNEL outputs(Outputs p) {
    wait_for_input();
    int start = (blockIdx.x * blockDim.x + threadIdx.x) * 4, y = blockIdx.y;
    if (start >= p.width) return;
    Place row = p.rows[y];
    u8 label[4];
    float depth[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        label[i] = 255;
        depth[i] = QUIET_NAN;
        int x = start + i;
        if (x >= p.width || row.first < 0) continue;
        Place column = p.columns[x];
        if (column.first < 0) continue;
        int p00 = row.first * p.answer_width + column.first, p01 = row.first * p.answer_width + column.next;
        int p10 = row.next * p.answer_width + column.first, p11 = row.next * p.answer_width + column.next;
        const float *a00 = p.answer + (u64)p00 * p.channels, *a01 = p.answer + (u64)p01 * p.channels;
        const float *a10 = p.answer + (u64)p10 * p.channels, *a11 = p.answer + (u64)p11 * p.channels;
        float y0 = 1 - row.weight, x0 = 1 - column.weight;
        auto between = [&](int c) {
            float left = MUL(a00[c], y0) + MUL(a10[c], row.weight);
            float right = MUL(a01[c], y0) + MUL(a11[c], row.weight);
            return MUL(left, x0) + MUL(right, column.weight);
        };
        if (p.labels != 0) {
            int best = p.best[p00];
            if (p.best[p01] != best || p.best[p10] != best || p.best[p11] != best) {
                best = 0;
                float greatest = NEGATIVE_INFINITY;
                for (int c = 0; c < p.scores; c++) {
                    float score = between(c);
                    if (score > greatest) {
                        greatest = score;
                        best = c;
                    }
                }
            }
            label[i] = p.ids[best];
        }
        if (p.depth != 0) depth[i] = metres(p, between(p.depth_channel));
    }
    u64 at = (u64)y * p.width + start;
    if (p.width % 4 == 0) {
        if (p.labels != 0) {
            *(u32*)(p.labels + at) = (u32)label[0] | (u32)label[1] << 8 | (u32)label[2] << 16 | (u32)label[3] << 24;
        }
        if (p.depth != 0) *(Four*)(p.depth + at) = Four{{depth[0], depth[1], depth[2], depth[3]}};
        return;
    }
    for (int i = 0; i < 4 && start + i < p.width; i++) {
        if (p.labels != 0) p.labels[at + i] = label[i];
        if (p.depth != 0) p.depth[at + i] = depth[i];
    }
}
