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
#define ALIGNED __align__(16)
#define READ_AGAIN() asm volatile("" ::: "memory")
#define THREADS(count) __launch_bounds__(count)
#define DYNAMIC_SHARED(type, name) extern __shared__ type name[]
#define MUL(a, b) __fmul_rn(a, b)  // never one operation with an addition: the processor's numbers, exactly
#define NEGATIVE_INFINITY __int_as_float(0xff800000)
#define QUIET_NAN __int_as_float(0x7fffffff)

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

DEVICE u32 max2(u32 a, u32 b) {
    u32 pair;
    asm("max.f16x2 %0, %1, %2;" : "=r"(pair) : "r"(a), "r"(b));
    return pair;
}

// c += a b for a: 16x16, b: 16x8, each lane of a warp with its part (PTX: mma.m16n8k16).
DEVICE void mma(float (&c)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
#endif

#define NONE_LOWEST 0xfc00fc00u  // a pair of minus infinities

// Eight half-precision channels of a pixel.
struct ALIGNED Eight {
    u32 pair[4];
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
    switch (act) {
        case ACT_RELU:
            return v < 0 ? 0 : v;
        case ACT_RELU6:
            return v < 0 ? 0 : v > 6 ? 6 : v;
        case ACT_HARDSWISH: {
            float gate = v + 3;
            gate = gate < 0 ? 0 : gate > 6 ? 6 : gate;
            return v * gate / 6;
        }
        default:
            return v;
    }
}

// Where a position of a map lies in a smaller one: PyTorch's align_corners=False.
struct Lerp {
    int first, next;
    float weight;
};

DEVICE Lerp lerp_at(int at, int from, int to) {
    float place = ((float)at + 0.5f) * ((float)from / (float)to) - 0.5f;
    place = place < 0 ? 0 : place;
    Lerp l;
    l.first = (int)place;
    if (l.first > from - 1) l.first = from - 1;
    l.next = l.first + (l.first < from - 1 ? 1 : 0);
    l.weight = place - (float)l.first;
    return l;
}

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
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= p.pixels) return;
    const float* in = p.in + 3 * (u64)i;
    u32* out = (u32*)(p.out + 4 * (u64)i);
    out[0] = pack(in[0], in[1]);
    out[1] = pack(in[2], 0);
}

// ---- the encoder ----------------------------------------------------------------------------------------------------

// 3x3 convolution of stride 2 of the input, 16 channels, hard swish. One thread a pixel.
struct Stem {
    const u16* in;  // [image][height][width][4]
    u16* out;       // [image][out_height][out_width][16]
    const float* weight;  // [3][3][3][16]: row, column, input, output
    const float* bias;
    int height, width, out_height, out_width, images;
};

KERNEL stem(Stem p) {
    SHARED float weight[27 * 16];
    SHARED float bias[16];
    for (int i = threadIdx.x; i < 27 * 16; i += blockDim.x) weight[i] = p.weight[i];
    if (threadIdx.x < 16) bias[threadIdx.x] = p.bias[threadIdx.x];
    __syncthreads();
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    int pixels = p.out_height * p.out_width;
    if (i >= pixels * p.images) return;
    int image = i / pixels, y = i % pixels / p.out_width, x = i % p.out_width;
    float sum[16];
#pragma unroll
    for (int o = 0; o < 16; o++) sum[o] = bias[o];
    const u16* in = p.in + (u64)image * p.height * p.width * 4;
#pragma unroll
    for (int ky = 0; ky < 3; ky++) {
        int sy = 2 * y + ky - 1;
        if (sy < 0 || sy >= p.height) continue;
#pragma unroll
        for (int kx = 0; kx < 3; kx++) {
            int sx = 2 * x + kx - 1;
            if (sx < 0 || sx >= p.width) continue;
            const u32* pixel = (const u32*)(in + ((u64)sy * p.width + sx) * 4);
            u32 first = pixel[0], second = pixel[1];
            float v[3] = {low(first), high(first), low(second)};
#pragma unroll
            for (int c = 0; c < 3; c++) {
                const float* w = weight + ((ky * 3 + kx) * 3 + c) * 16;
#pragma unroll
                for (int o = 0; o < 16; o++) sum[o] += v[c] * w[o];
            }
        }
    }
    Eight* out = (Eight*)(p.out + (u64)i * 16);
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float v[8];
#pragma unroll
        for (int o = 0; o < 8; o++) v[o] = activated(sum[8 * half + o], ACT_HARDSWISH);
        out[half] = packed(v);
    }
}

// Depthwise convolution with its activation, and the sums of its answers that squeeze-and-excitation reads.
// A block has `per_block` pixels of one image (blockIdx.y) and all channels.
struct Depthwise {
    const u16* in;
    u16* out;
    const u16* weight;  // [kernel * kernel][channels]
    const float* bias;
    float* sums;  // [image][gridDim.x][channels], or null
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
    if (lane < lanes) {
        float bias[8];
#pragma unroll
        for (int c = 0; c < 8; c++) bias[c] = p.bias[8 * group + c];
        for (int i = start + lane; i < end; i += lanes) {
            int y = i / p.out_width * p.stride - SIZE / 2, x = i % p.out_width * p.stride - SIZE / 2;
            float sum[8];
#pragma unroll
            for (int c = 0; c < 8; c++) sum[c] = bias[c];
#pragma unroll
            for (int ky = 0; ky < SIZE; ky++) {
                if (y + ky < 0 || y + ky >= p.height) continue;
#pragma unroll
                for (int kx = 0; kx < SIZE; kx++) {
                    if (x + kx < 0 || x + kx >= p.width) continue;
                    float v[8], w[8];
                    unpack(in[((u64)(y + ky) * p.width + x + kx) * groups], v);
                    unpack(weight[(ky * SIZE + kx) * groups], w);
#pragma unroll
                    for (int c = 0; c < 8; c++) sum[c] += v[c] * w[c];
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
        p.sums[((u64)blockIdx.y * gridDim.x + blockIdx.x) * p.channels + c] = sum;
    }
}

KERNEL depthwise3(Depthwise p) { depthwise<3>(p); }
KERNEL depthwise5(Depthwise p) { depthwise<5>(p); }

// Squeeze-and-excitation: sums -> means -> ReLU layer -> hard sigmoid layer. A block an image.
struct Excite {
    const float* sums;  // [image][blocks][channels]
    const u16* weight1;  // [squeezed][channels]
    const float* bias1;
    const u16* weight2;  // [channels][squeezed]
    const float* bias2;
    float* factors;  // [image][channels]
    int blocks, channels, squeezed, pixels;
};

KERNEL excite(Excite p) {
    SHARED float mean[576];
    SHARED float part[1024];
    SHARED float hidden[256];
    const float* sums = p.sums + (u64)blockIdx.x * p.blocks * p.channels;
    for (int c = threadIdx.x; c < p.channels; c += blockDim.x) {
        float sum = 0;
#pragma unroll 8
        for (int b = 0; b < p.blocks; b++) sum += sums[(u64)b * p.channels + c];
        mean[c] = sum / (float)p.pixels;
    }
    __syncthreads();
    int parts = blockDim.x / p.squeezed, vectors = p.channels / 8;
    int j = threadIdx.x % p.squeezed, k = threadIdx.x / p.squeezed;
    if (k < parts) {
        const Eight* weight = (const Eight*)p.weight1 + (u64)j * vectors;
        float sum = 0;
#pragma unroll 4
        for (int v = k; v < vectors; v += parts) {
            float w[8];
            unpack(weight[v], w);
#pragma unroll
            for (int c = 0; c < 8; c++) sum += w[c] * mean[8 * v + c];
        }
        part[k * p.squeezed + j] = sum;
    }
    __syncthreads();
    for (int h = threadIdx.x; h < p.squeezed; h += blockDim.x) {
        float sum = p.bias1[h];
        for (int q = 0; q < parts; q++) sum += part[q * p.squeezed + h];
        hidden[h] = sum < 0 ? 0 : sum;
    }
    __syncthreads();
    int more = p.squeezed / 8;
    for (int c = threadIdx.x; c < p.channels; c += blockDim.x) {
        const Eight* weight = (const Eight*)p.weight2 + (u64)c * more;
        float sum = p.bias2[c];
#pragma unroll 4
        for (int v = 0; v < more; v++) {
            float w[8];
            unpack(weight[v], w);
#pragma unroll
            for (int q = 0; q < 8; q++) sum += w[q] * hidden[8 * v + q];
        }
        float gate = sum + 3;
        gate = gate < 0 ? 0 : gate > 6 ? 6 : gate;
        p.factors[(u64)blockIdx.x * p.channels + c] = gate / 6;
    }
}

// ---- products: 1x1 convolutions ---------------------------------------------------------------------------------------

// out = act([a, b] weight' + bias + enlarged + add), of which all but `a`, `weight` and `out` may be left out.
// A block has 64 pixels and 64 outputs; each of its four warps 32 of each.
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
};

#define TILE 64
#define PITCH 72  // of a row in shared memory: fragments then come from 32 different banks

KERNEL product(Product p) {
    SHARED ALIGNED u16 a_tile[TILE * PITCH];
    SHARED ALIGNED u16 w_tile[TILE * PITCH];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int row0 = blockIdx.x * TILE, output0 = blockIdx.y * TILE;
    int inputs = p.a_channels + p.b_channels, pixels = p.height * p.width;
    float sum[2][4][4];
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int j = 0; j < 4; j++)
#pragma unroll
            for (int k = 0; k < 4; k++) sum[i][j][k] = 0;
    // What each thread carries: four vectors of each tile, a chunk of 64 inputs at a time.
    Eight a_next[4], w_next[4];
    auto fetch = [&](int chunk) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int vector = threadIdx.x + 128 * i;
            int line = vector / 8, input = chunk + vector % 8 * 8;
            int row = row0 + line, output = output0 + line;
            a_next[i] = eight_of(0);
            w_next[i] = eight_of(0);
            if (input >= inputs) continue;
            if (row < p.rows) {
                if (input < p.a_channels) {
                    a_next[i] = *(const Eight*)(p.a + (u64)row * p.a_channels + input);
                    if (p.factors != 0) {
                        const float* factors = p.factors + (u64)(row / pixels) * p.a_channels + input;
                        float v[8];
                        unpack(a_next[i], v);
#pragma unroll
                        for (int c = 0; c < 8; c++) v[c] *= factors[c];
                        a_next[i] = packed(v);
                    }
                } else {
                    a_next[i] = *(const Eight*)(p.b + (u64)row * p.b_channels + input - p.a_channels);
                }
            }
            if (output < p.outputs) w_next[i] = *(const Eight*)(p.weight + (u64)output * inputs + input);
        }
    };
    fetch(0);
    int a_row = warp / 2 * 32 + lane / 4, w_row = warp % 2 * 32 + lane / 4, pair = lane % 4 * 2;
    bool works = output0 + warp % 2 * 32 < p.outputs;
    for (int chunk = 0; chunk < inputs; chunk += 64) {
        __syncthreads();
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int vector = threadIdx.x + 128 * i;
            *(Eight*)(a_tile + vector / 8 * PITCH + vector % 8 * 8) = a_next[i];
            *(Eight*)(w_tile + vector / 8 * PITCH + vector % 8 * 8) = w_next[i];
        }
        __syncthreads();
        if (chunk + 64 < inputs) fetch(chunk + 64);
        if (!works) continue;
        int steps = inputs - chunk < 64 ? (inputs - chunk) / 16 : 4;
        for (int step = 0; step < steps; step++) {
            u32 a[2][4], w[4][2];
            int at = 16 * step + pair;
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const u16* top = a_tile + (a_row + 16 * i) * PITCH + at;
                const u16* bottom = top + 8 * PITCH;
                a[i][0] = *(const u32*)top;
                a[i][1] = *(const u32*)bottom;
                a[i][2] = *(const u32*)(top + 8);
                a[i][3] = *(const u32*)(bottom + 8);
            }
#pragma unroll
            for (int j = 0; j < 4; j++) {
                const u16* line = w_tile + (w_row + 8 * j) * PITCH + at;
                w[j][0] = *(const u32*)line;
                w[j][1] = *(const u32*)(line + 8);
            }
#pragma unroll
            for (int i = 0; i < 2; i++)
#pragma unroll
                for (int j = 0; j < 4; j++) mma(sum[i][j], a[i], w[j]);
        }
    }
    if (!works) return;
#pragma unroll
    for (int i = 0; i < 2; i++) {
#pragma unroll
        for (int below = 0; below < 2; below++) {
            int row = row0 + a_row + 16 * i + 8 * below;
            if (row >= p.rows) continue;
            Lerp ly, lx;
            const u16* small = 0;
            if (p.enlarged != 0) {
                int image = row / pixels;
                ly = lerp_at(row % pixels / p.width, p.small_height, p.height);
                lx = lerp_at(row % p.width, p.small_width, p.width);
                small = p.enlarged + (u64)image * p.small_height * p.small_width * p.outputs;
            }
#pragma unroll
            for (int j = 0; j < 4; j++) {
                int output = output0 + warp % 2 * 32 + 8 * j + pair;
                if (output >= p.outputs) continue;
                float v0 = sum[i][j][2 * below], v1 = sum[i][j][2 * below + 1];
                if (p.bias != 0) {
                    v0 += p.bias[output];
                    v1 += p.bias[output + 1];
                }
                if (p.enlarged != 0) {
                    auto corner = [&](int y, int x) {
                        return *(const u32*)(small + ((u64)y * p.small_width + x) * p.outputs + output);
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
                *(u32*)(p.out + at) = pack(activated(v0, p.act), activated(v1, p.act));
            }
        }
    }
}

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

KERNEL pool(Pool p) {
    SHARED Eight whole[(POOL_HEIGHT + 4) * (POOL_WIDTH + 4) * 4];
    SHARED Eight across[(POOL_HEIGHT + 4) * POOL_WIDTH * 4];
    int groups = p.channels / 8, parts = p.channels / 32;
    int image = blockIdx.z / parts, group0 = blockIdx.z % parts * 4;
    int x0 = blockIdx.x * POOL_WIDTH, y0 = blockIdx.y * POOL_HEIGHT;
    u64 base = (u64)image * p.height * p.width * groups + group0;
    const Eight* top = (const Eight*)p.top + base;
    for (int i = threadIdx.x; i < (POOL_HEIGHT + 4) * (POOL_WIDTH + 4) * 4; i += blockDim.x) {
        int g = i % 4, x = x0 + i / 4 % (POOL_WIDTH + 4) - 2, y = y0 + i / 4 / (POOL_WIDTH + 4) - 2;
        bool is_inside = x >= 0 && x < p.width && y >= 0 && y < p.height;
        whole[i] = is_inside ? top[((u64)y * p.width + x) * groups + g] : eight_of(NONE_LOWEST);
    }
    __syncthreads();
    for (int i = threadIdx.x; i < (POOL_HEIGHT + 4) * POOL_WIDTH * 4; i += blockDim.x) {
        int g = i % 4, x = i / 4 % POOL_WIDTH, y = i / 4 / POOL_WIDTH;
        const Eight* line = whole + (y * (POOL_WIDTH + 4) + x) * 4 + g;
        Eight m = line[0];
#pragma unroll
        for (int k = 1; k < 5; k++) m = max8(m, line[4 * k]);
        across[i] = m;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < POOL_HEIGHT * POOL_WIDTH * 4; i += blockDim.x) {
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
// after each, all added up. A block has 32x32 pixels and 8 channels, and takes 8 pixels more at each side, two for each
// pooling, so that nothing of the chain leaves shared memory. gridDim.z = images x channels / 8.
struct Quarter {
    const u16* block1;  // [image][height][width][16]
    const u16* eighth;  // [image][small_height][small_width][channels]
    const float* conv6;  // [channels][16]
    const float* scales;  // [4][channels]
    u16* out;
    int height, width, small_height, small_width, channels;
};

#define QUARTER_TILE 32
#define QUARTER_SIDE 48
#define QUARTER_PITCH 49  // odd, so that neither rows nor columns of a warp meet in a bank
#define QUARTER_RUN 4
#define QUARTER_THREADS (QUARTER_SIDE * QUARTER_SIDE / QUARTER_RUN)

// 5-wide maxima of a run and the two at each side of it.
DEVICE void maxima(Eight (&v)[QUARTER_RUN + 4]) {
#pragma unroll
    for (int i = 0; i < QUARTER_RUN; i++) {
        v[i] = max8(max8(max8(v[i], v[i + 1]), max8(v[i + 2], v[i + 3])), v[i + 4]);
    }
}

KERNEL THREADS(QUARTER_THREADS) quarter(Quarter p) {
    DYNAMIC_SHARED(Eight, room);
    Eight* map = room;
    Eight* across = room + QUARTER_SIDE * QUARTER_PITCH;
    SHARED float conv6[8 * 16];
    SHARED float scales[4 * 8];
    int groups = p.channels / 8;
    int image = blockIdx.z / groups, group = blockIdx.z % groups;
    int x0 = blockIdx.x * QUARTER_TILE - 8, y0 = blockIdx.y * QUARTER_TILE - 8;
    for (int i = threadIdx.x; i < 8 * 16; i += blockDim.x) conv6[i] = p.conv6[group * 8 * 16 + i];
    if (threadIdx.x < 32) scales[threadIdx.x] = p.scales[threadIdx.x / 8 * p.channels + group * 8 + threadIdx.x % 8];
    __syncthreads();
    const Eight* block1 = (const Eight*)p.block1 + (u64)image * p.height * p.width * 2;
    const Eight* eighth = (const Eight*)p.eighth + (u64)image * p.small_height * p.small_width * groups + group;
#pragma unroll 1  // four at once would not fit the registers
    for (int i = threadIdx.x; i < QUARTER_SIDE * QUARTER_SIDE; i += QUARTER_THREADS) {
        READ_AGAIN();  // the 128 weights: the compiler would keep them in registers that it does not have
        int x = x0 + i % QUARTER_SIDE, y = y0 + i / QUARTER_SIDE;
        int at = i / QUARTER_SIDE * QUARTER_PITCH + i % QUARTER_SIDE;
        if (x < 0 || x >= p.width || y < 0 || y >= p.height) {
            map[at] = eight_of(NONE_LOWEST);
            continue;
        }
        const Eight* pixel = block1 + ((u64)y * p.width + x) * 2;
        float in[2][8];
        unpack(pixel[0], in[0]);
        unpack(pixel[1], in[1]);
        Lerp ly = lerp_at(y, p.small_height, p.height), lx = lerp_at(x, p.small_width, p.width);
        float corner[4][8];
        unpack(eighth[((u64)ly.first * p.small_width + lx.first) * groups], corner[0]);
        unpack(eighth[((u64)ly.first * p.small_width + lx.next) * groups], corner[1]);
        unpack(eighth[((u64)ly.next * p.small_width + lx.first) * groups], corner[2]);
        unpack(eighth[((u64)ly.next * p.small_width + lx.next) * groups], corner[3]);
        float v[8];
#pragma unroll
        for (int c = 0; c < 8; c++) {
            float upper = (1 - lx.weight) * corner[0][c] + lx.weight * corner[1][c];
            float lower = (1 - lx.weight) * corner[2][c] + lx.weight * corner[3][c];
            float sum = (1 - ly.weight) * upper + ly.weight * lower;
#pragma unroll
            for (int k = 0; k < 16; k++) sum += conv6[c * 16 + k] * in[k / 8][k % 8];
            v[c] = activated(sum, ACT_RELU6);
        }
        map[at] = packed(v);
    }
    __syncthreads();
    // A thread's run: along a row first, then down a column.
    int line = threadIdx.x % QUARTER_SIDE, start = threadIdx.x / QUARTER_SIDE * QUARTER_RUN;
    bool is_answer = line >= 8 && line < 8 + QUARTER_TILE && start >= 8 && start < 8 + QUARTER_TILE;
    Eight sum[QUARTER_RUN];
#pragma unroll
    for (int i = 0; i < QUARTER_RUN; i++) sum[i] = map[(start + i) * QUARTER_PITCH + line];
#pragma unroll 1
    for (int stage = 0; stage < 4; stage++) {
        Eight v[QUARTER_RUN + 4];
        {
            int row = line, first = start;
#pragma unroll
            for (int i = 0; i < QUARTER_RUN + 4; i++) {
                int x = first + i - 2;
                v[i] = x >= 0 && x < QUARTER_SIDE ? map[row * QUARTER_PITCH + x] : eight_of(NONE_LOWEST);
            }
            maxima(v);
#pragma unroll
            for (int i = 0; i < QUARTER_RUN; i++) across[row * QUARTER_PITCH + first + i] = v[i];
        }
        __syncthreads();
#pragma unroll
        for (int i = 0; i < QUARTER_RUN + 4; i++) {
            int y = start + i - 2;
            v[i] = y >= 0 && y < QUARTER_SIDE ? across[y * QUARTER_PITCH + line] : eight_of(NONE_LOWEST);
        }
        maxima(v);
        int x = x0 + line;
#pragma unroll
        for (int i = 0; i < QUARTER_RUN; i++) {
            int y = y0 + start + i;
            float pooled[8], scaled[8], total[8];
            unpack(v[i], pooled);
            unpack(sum[i], total);
#pragma unroll
            for (int c = 0; c < 8; c++) scaled[c] = pooled[c] * scales[stage * 8 + c];
            Eight next = packed(scaled);
            unpack(next, scaled);
#pragma unroll
            for (int c = 0; c < 8; c++) total[c] += pooled[c] + scaled[c];
            sum[i] = packed(total);
            bool is_inside = x >= 0 && x < p.width && y >= 0 && y < p.height;
            map[(start + i) * QUARTER_PITCH + line] = is_inside ? next : eight_of(NONE_LOWEST);
        }
        __syncthreads();
    }
    if (!is_answer) return;
    Eight* out = (Eight*)p.out + (u64)image * p.height * p.width * groups + group;
#pragma unroll
    for (int i = 0; i < QUARTER_RUN; i++) {
        int x = x0 + line, y = y0 + start + i;
        if (x < p.width && y < p.height) out[((u64)y * p.width + x) * groups] = sum[i];
    }
}

// ---- the heads --------------------------------------------------------------------------------------------------------

// answer = 3x3 convolution of relu6(pre * in) + bias. A block has 16x8 pixels of an image and one head; a warp a row of
// them. gridDim.z = images x heads; 256 threads.
struct Head {
    const float* pre;  // [channels]
    const u16* weight;  // [9][outputs padded to 8][channels]
    const float* bias;  // [outputs]
    int outputs, first;  // channels of the answer, from which
};

#define MOST_HEADS 4
#define HEAD_OUTPUTS 32  // the most of a head
#define HEAD_CHUNK 32    // channels at a time
#define HEAD_PITCH 40

struct Heads {
    const u16* in;  // [image][height][width][channels]
    float* answer;  // [image][height][width][answer_channels]
    int height, width, channels, answer_channels, images;
    Head head[MOST_HEADS];
};

KERNEL heads(Heads p) {
    SHARED ALIGNED u16 map[10 * 18 * HEAD_PITCH];
    SHARED ALIGNED u16 weight[9 * HEAD_OUTPUTS * HEAD_PITCH];
    int image = blockIdx.z % p.images, index = blockIdx.z / p.images;
    const float* pre = p.head[index].pre;
    const u16* weights = p.head[index].weight;
    int outputs = p.head[index].outputs, tiles = (outputs + 7) / 8;
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int x0 = blockIdx.x * 16, y0 = blockIdx.y * 8;
    const u16* in = p.in + (u64)image * p.height * p.width * p.channels;
    float sum[HEAD_OUTPUTS / 8][4];
#pragma unroll
    for (int j = 0; j < HEAD_OUTPUTS / 8; j++)
#pragma unroll
        for (int k = 0; k < 4; k++) sum[j][k] = 0;
    for (int chunk = 0; chunk < p.channels; chunk += HEAD_CHUNK) {
        __syncthreads();
        for (int i = threadIdx.x; i < 10 * 18 * 4; i += blockDim.x) {
            int vector = i % 4, x = x0 + i / 4 % 18 - 1, y = y0 + i / 4 / 18 - 1;
            Eight e = eight_of(0);
            if (x >= 0 && x < p.width && y >= 0 && y < p.height) {
                int channel = chunk + 8 * vector;
                float v[8];
                unpack(*(const Eight*)(in + ((u64)y * p.width + x) * p.channels + channel), v);
#pragma unroll
                for (int c = 0; c < 8; c++) v[c] = activated(v[c] * pre[channel + c], ACT_RELU6);
                e = packed(v);
            }
            *(Eight*)(map + i / 4 * HEAD_PITCH + vector * 8) = e;
        }
        for (int i = threadIdx.x; i < 9 * tiles * 8 * 4; i += blockDim.x) {
            int vector = i % 4, line = i / 4 % (tiles * 8), tap = i / 4 / (tiles * 8);
            *(Eight*)(weight + (tap * HEAD_OUTPUTS + line) * HEAD_PITCH + vector * 8) =
                *(const Eight*)(weights + ((u64)(tap * tiles * 8 + line)) * p.channels + chunk + 8 * vector);
        }
        __syncthreads();
        for (int tap = 0; tap < 9; tap++) {
            const u16* line = map + ((warp + tap / 3) * 18 + tap % 3 + lane / 4) * HEAD_PITCH + lane % 4 * 2;
            const u16* column = weight + (tap * HEAD_OUTPUTS + lane / 4) * HEAD_PITCH + lane % 4 * 2;
#pragma unroll
            for (int step = 0; step < HEAD_CHUNK / 16; step++) {
                u32 a[4];
                a[0] = *(const u32*)(line + 16 * step);
                a[1] = *(const u32*)(line + 8 * HEAD_PITCH + 16 * step);
                a[2] = *(const u32*)(line + 16 * step + 8);
                a[3] = *(const u32*)(line + 8 * HEAD_PITCH + 16 * step + 8);
#pragma unroll
                for (int j = 0; j < HEAD_OUTPUTS / 8; j++) {
                    if (j >= tiles) break;
                    u32 w[2];
                    w[0] = *(const u32*)(column + 8 * j * HEAD_PITCH + 16 * step);
                    w[1] = *(const u32*)(column + 8 * j * HEAD_PITCH + 16 * step + 8);
                    mma(sum[j], a, w);
                }
            }
        }
    }
    int y = y0 + warp;
    if (y >= p.height) return;
    float* answer = p.answer + ((u64)image * p.height + y) * p.width * p.answer_channels + p.head[index].first;
#pragma unroll
    for (int j = 0; j < HEAD_OUTPUTS / 8; j++) {
#pragma unroll
        for (int k = 0; k < 4; k++) {
            int x = x0 + lane / 4 + k / 2 * 8, output = 8 * j + lane % 4 * 2 + k % 2;
            if (x < p.width && output < outputs) {
                answer[(u64)x * p.answer_channels + output] = sum[j][k] + p.head[index].bias[output];
            }
        }
    }
}

// ---- after the network ------------------------------------------------------------------------------------------------

// The greatest of a pixel's scores, the first among equals.
struct Classes {
    const float* answer;  // [pixel][channels]
    u8* best;
    int pixels, channels, scores;
};

KERNEL classes(Classes p) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= p.pixels) return;
    const float* pixel = p.answer + (u64)i * p.channels;
    int best = 0;
    float greatest = NEGATIVE_INFINITY;
    for (int c = 0; c < p.scores; c++) {
        if (pixel[c] > greatest) {
            greatest = pixel[c];
            best = c;
        }
    }
    p.best[i] = (u8)best;
}

struct ALIGNED Four {
    float value[4];
};

// Where an output's row or column lies in the answer; `first` is negative where the network saw nothing.
struct Place {
    int first, next;
    float weight;
};

enum { DEPTH_LOG = 0, DEPTH_METRES = 1, DEPTH_INVERSE = 2 };

// Labels and metres at the output's size, each where it is wanted. One thread four pixels of a row.
struct Outputs {
    const float* answer;  // [answer_height][answer_width][channels]
    const u8* best;
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
