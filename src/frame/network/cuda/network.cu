// The network, in half precision.
//
// Maps are [image][row][column][channel], channels padded with zeros to a multiple of 16, so that 8 channels are one
// aligned load. Sums are taken in single precision.

// ---- the input -------------------------------------------------------------------------------------------------------

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

// Sums that squeeze-and-excitation reads are whole numbers of this part of one: whatever the order of the blocks, the
// sum is the same.
#define SUM_UNIT 65536.0f
#define MOST_CHANNELS 576  // of those that have factors

// The first half of an inverted residual: widening by a 1x1 convolution, the depthwise convolution, each with its
// activation, and squeeze-and-excitation's factors.
//
// A block has WIDTH x 4 pixels of the answer and CHANNELS channels. It widens what these pixels see into shared memory,
// and its threads go along rows with eight channels each from there. Squeeze-and-excitation's first layer is a sum over
// pixels and channels: each block adds what its own make of it. After these blocks of all images come as many as there
// are parts of the channels, which wait until all of their image have added theirs, and make the factors of their
// channels.
//
// With STEM what widens is the network's first layer, a 3x3 convolution of stride 2 of the picture: the inputs of a
// pixel are 9 of the picture's, and zeros.
struct Inverted {
    const u16* in;  // [image][height][width][inputs]; with STEM [image][picture_height][picture_width][4]
    const u16* widen;  // [channels][inputs]
    const float* widen_bias;
    const u16* weight;  // [SIZE * SIZE][channels]
    const float* bias;
    u16* out;  // [image][out_height][out_width][channels]
    // Squeeze-and-excitation: means -> ReLU layer -> hard sigmoid layer. Weights are tiles of 16x16, as
    // the lanes of a warp put them into the tensor cores: [tile of inputs][tile of outputs][lane][8] in the first
    // layer, [tile of outputs][tile of inputs][lane][8] in the second.
    u64* sums;     // [image][squeezed, padded to 16], zero before and after
    u32* arrived;  // [image][2], blocks that have added theirs, and that have read the sums; zero before and after
    const u16* squeeze;
    const float* squeeze_bias;
    const u16* excite;
    const float* excite_bias;
    float* factors;  // [image][channels]
    int height, width, out_height, out_width, picture_height, picture_width;
    int inputs, channels, widen_act, act, squeezed, images;
};

#define INVERTED_HEIGHT 4
#define INVERTED_THREADS 128
#define STEM_TAPS 12  // three of which are zeros: inputs are a multiple of 16
#define SQUEEZED_TILES 10  // the most

// A vector as the right side of a product: pairs of its numbers, and of what these miss to single precision, which are
// columns 0 and 1. The sum of both columns of the product is in lanes that are multiples of 4.
struct ExciteRoom {
    u32 pairs[2][SQUEEZED_TILES * 8];
};

DEVICE void put_pair(ExciteRoom& room, int pair, float first, float second) {
    u32 whole = pack(first, second);
    room.pairs[0][pair] = whole;
    room.pairs[1][pair] = pack(first - low(whole), second - high(whole));
}

DEVICE void times_vector(float (&sum)[4], Eight tile, const ExciteRoom& room, int column) {
    int lane = threadIdx.x % 32;
    const u32* pairs = room.pairs[lane / 4 % 2] + 8 * column + lane % 4;
    u32 part[2] = {lane < 8 ? pairs[0] : 0, lane < 8 ? pairs[4] : 0};
    mma(sum, tile.pair, part);
}

// The factors of a part of an image's channels.
template <int CHANNELS>
DEVICE void excite(const Inverted& p, ExciteRoom& room, int image, int part, int parts, int blocks) {
    int lane = threadIdx.x % 32, row = part * (CHANNELS / 16) + (int)threadIdx.x / 32, tiles = (p.squeezed + 15) / 16;
    bool works = threadIdx.x / 32 < CHANNELS / 16 && row < p.channels / 16;
    Eight weight[SQUEEZED_TILES];
#pragma unroll
    for (int i = 0; i < SQUEEZED_TILES; i++) {
        weight[i] = works && i < tiles ? ((const Eight*)p.excite)[(row * tiles + i) * 32 + lane] : eight_of(0);
    }
    int channel = 16 * row + lane / 4;
    float bias[2] = {works ? p.excite_bias[channel] : 0, works ? p.excite_bias[channel + 8] : 0};
    wait_for_input();
    u32* arrived = p.arrived + 2 * image;
    if (threadIdx.x == 0) wait_for_count(arrived, blocks);
    __syncthreads();
    float scale = 1 / (SUM_UNIT * (float)(p.out_height * p.out_width));
    u64* sums = p.sums + image * 16 * tiles;
    for (int pair = threadIdx.x; pair < 8 * tiles; pair += INVERTED_THREADS) {
        float v[2];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            v[i] = p.squeeze_bias[2 * pair + i] + (float)latest(sums + 2 * pair + i) * scale;
            v[i] = v[i] < 0 ? 0 : v[i];
        }
        put_pair(room, pair, v[0], v[1]);
    }
    SHARED bool is_last;
    __syncthreads();
    if (threadIdx.x == 0) is_last = add_one(arrived + 1) == parts - 1;
    if (works) {
        float sum[4] = {0, 0, 0, 0};
#pragma unroll
        for (int i = 0; i < SQUEEZED_TILES; i++) {
            if (i < tiles) times_vector(sum, weight[i], room, i);
        }
#pragma unroll
        for (int i = 0; i < 2; i++) {
            float gate = sum[2 * i] + sum[2 * i + 1] + bias[i] + 3;
            gate = gate < 0 ? 0 : gate > 6 ? 6 : gate;
            if (lane % 4 == 0) p.factors[image * p.channels + channel + 8 * i] = gate * (1.0f / 6);
        }
    }
    // Who is the last to have read them sets them to zero.
    __syncthreads();
    if (!is_last) return;
    for (int i = threadIdx.x; i < 16 * tiles; i += INVERTED_THREADS) sums[i] = 0;
    if (threadIdx.x < 2) arrived[threadIdx.x] = 0;
}

// What a block of WIDTH pixels across sees of the input, row by row, padded to tiles of 16 pixels.
template <int SIZE, int STRIDE, int WIDTH, int CHANNELS>
struct Sight {
    static constexpr int ACROSS = (WIDTH - 1) * STRIDE + SIZE;
    static constexpr int PIXELS = ((INVERTED_HEIGHT - 1) * STRIDE + SIZE) * ACROSS;
    static constexpr int TILES = (PIXELS + 15) / 16;
    static constexpr int PITCH = CHANNELS + 8, GROUPS = CHANNELS / 8, SLOTS = INVERTED_THREADS / GROUPS;
    // Pixels of a thread, side by side.
    static constexpr int EACH = WIDTH * INVERTED_HEIGHT * GROUPS / INVERTED_THREADS;

    // Where it begins, and the input's size.
    int x, y, width, height;

    DEVICE_MEMBER bool is_inside(int pixel) const {
        int at_x = x + pixel % ACROSS, at_y = y + pixel / ACROSS;
        return at_x >= 0 && at_x < width && at_y >= 0 && at_y < height;
    }

    // In the input.
    DEVICE_MEMBER int place(int pixel) const { return (y + pixel / ACROSS) * width + x + pixel % ACROSS; }
};

// wide = act(seen weight' + bias), and zero outside the input.
template <int CHANNELS, class Seen>
DEVICE void widened(const Seen& sight, const u16* seen, const u16* weight, const float* bias, int inputs, int act,
                    u16* wide) {
    // Two warps across, if there are channels for them; each has two tiles down at a time.
    constexpr int WARPS = CHANNELS < 32 ? 1 : 2, ACROSS_TILES = CHANNELS / WARPS / 8;
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, pitch = inputs + 8;
    int output0 = warp % WARPS * (CHANNELS / WARPS);
    const u16* line = weight + (output0 + lane % 8 + lane / 16 * 8) * pitch + lane / 8 % 2 * 8;
#pragma unroll 1
    for (int tile = warp / WARPS * 2; tile < Seen::TILES; tile += 8 / WARPS) {
        float sum[2][ACROSS_TILES][4];
#pragma unroll
        for (int i = 0; i < 2; i++)
#pragma unroll
            for (int j = 0; j < ACROSS_TILES; j++)
#pragma unroll
                for (int k = 0; k < 4; k++) sum[i][j][k] = 0;
        // Where there is no second tile the first is multiplied twice.
        bool is_pair = tile + 1 < Seen::TILES;
        const u16* row = seen + (16 * tile + lane % 16) * pitch + lane / 16 * 8;
        const u16* below = is_pair ? row + 16 * pitch : row;
#pragma unroll 2
        for (int input = 0; input < inputs; input += 16) {
            u32 a[2][4];
            load_matrices(a[0], row + input);
            load_matrices(a[1], below + input);
#pragma unroll
            for (int j = 0; j < ACROSS_TILES; j += 2) {
                u32 w[4];
                load_matrices(w, line + 8 * j * pitch + input);
#pragma unroll
                for (int next = 0; next < 2; next++) {
                    u32 part[2] = {w[2 * next], w[2 * next + 1]};
                    mma(sum[0][j + next], a[0], part);
                    mma(sum[1][j + next], a[1], part);
                }
            }
        }
#pragma unroll
        for (int i = 0; i < 2; i++) {
            if (i > 0 && !is_pair) break;
#pragma unroll
            for (int under = 0; under < 2; under++) {
                int pixel = 16 * (tile + i) + lane / 4 + 8 * under;
                bool is_there = sight.is_inside(pixel);
#pragma unroll
                for (int j = 0; j < ACROSS_TILES; j++) {
                    int output = output0 + 8 * j + lane % 4 * 2;
                    float v0 = activated(sum[i][j][2 * under] + bias[output], act);
                    float v1 = activated(sum[i][j][2 * under + 1] + bias[output + 1], act);
                    *(u32*)(wide + pixel * Seen::PITCH + output) = is_there ? pack(v0, v1) : 0;
                }
            }
        }
    }
}

// A thread's part of the depthwise convolution, before its activation: eight channels of pixels side by side, from
// (x, y) of the block. `weight` and `bias` begin with these channels.
template <int SIZE, int STRIDE, class Seen>
DEVICE void depthwise(const u16* wide, const u16* weight, int weight_pitch, const float* bias, int x, int y,
                      float (&sum)[Seen::EACH][8]) {
#pragma unroll
    for (int i = 0; i < Seen::EACH; i++)
#pragma unroll
        for (int c = 0; c < 8; c++) sum[i][c] = bias[c];
#pragma unroll
    for (int ky = 0; ky < SIZE; ky++) {
        constexpr int NEEDS = SIZE + (Seen::EACH - 1) * STRIDE;
        const u16* row = wide + ((y * STRIDE + ky) * Seen::ACROSS + x * STRIDE) * Seen::PITCH;
        float v[NEEDS][8];
#pragma unroll
        for (int i = 0; i < NEEDS; i++) unpack(*(const Eight*)(row + i * Seen::PITCH), v[i]);
#pragma unroll
        for (int kx = 0; kx < SIZE; kx++) {
            float w[8];
            unpack(*(const Eight*)(weight + (ky * SIZE + kx) * weight_pitch), w);
#pragma unroll
            for (int i = 0; i < Seen::EACH; i++)
#pragma unroll
                for (int c = 0; c < 8; c++) sum[i][c] += v[kx + i * STRIDE][c] * w[c];
        }
    }
}

template <int SIZE, int STRIDE, int WIDTH, int CHANNELS, bool STEM>
DEVICE void inverted(const Inverted& p) {
    using Seen = Sight<SIZE, STRIDE, WIDTH, CHANNELS>;
    constexpr int GROUPS = Seen::GROUPS, SLOTS = Seen::SLOTS, EACH = Seen::EACH;
    SHARED float biases[2][CHANNELS];
    SHARED float total[SLOTS][CHANNELS];
    SHARED ExciteRoom room;
    DYNAMIC_SHARED(u16, dynamic);
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, pitch = p.inputs + 8;
    int squeezed_tiles = (p.squeezed + 15) / 16;
    u16* wide = dynamic;                                    // [TILES * 16][PITCH]
    u16* weight = wide + Seen::TILES * 16 * Seen::PITCH;    // [SIZE * SIZE][CHANNELS]
    u16* squeeze = weight + SIZE * SIZE * CHANNELS;         // [CHANNELS / 16][squeezed_tiles][32][8]
    u16* widen = squeeze + squeezed_tiles * 16 * CHANNELS;  // [CHANNELS][pitch]
    u16* seen = widen + CHANNELS * pitch;                   // [TILES * 16][pitch]
    int parts = (p.channels + CHANNELS - 1) / CHANNELS;
    int across = (p.out_width + WIDTH - 1) / WIDTH;
    int blocks = (p.out_height + INVERTED_HEIGHT - 1) / INVERTED_HEIGHT * across * parts;  // of an image
    int image = blockIdx.x / blocks, at_image = blockIdx.x % blocks;
    if (image >= p.images) {
        int rest = blockIdx.x - p.images * blocks;
        return excite<CHANNELS>(p, room, rest / parts, rest % parts, parts, blocks);
    }
    int channel0 = at_image % parts * CHANNELS;
    int x0 = at_image / parts % across * WIDTH, y0 = at_image / parts / across * INVERTED_HEIGHT;
    Seen sight{x0 * STRIDE - SIZE / 2, y0 * STRIDE - SIZE / 2, p.width, p.height};
    // Each thread fetches eight inputs of every so many pixels, and of the lines of weights.
    int vectors = p.inputs / 8, step = INVERTED_THREADS / vectors, own_line = threadIdx.x / vectors;
    int own_input = threadIdx.x % vectors * 8;
    if (own_line >= step) own_line = CHANNELS + Seen::PIXELS;  // none
    // Weights are there before the kernel before has ended.
    for (int line = own_line; line < CHANNELS; line += step) {
        bool is_there = channel0 + line < p.channels;
        int from = is_there ? (channel0 + line) * p.inputs + own_input : 0;
        copy_async(widen + line * pitch + own_input, p.widen + from, is_there);
    }
    for (int i = threadIdx.x; i < SIZE * SIZE * GROUPS; i += INVERTED_THREADS) {
        int tap = i / GROUPS, at = i % GROUPS * 8;
        bool is_there = channel0 + at < p.channels;
        int from = is_there ? tap * p.channels + channel0 + at : 0;
        copy_async(weight + tap * CHANNELS + at, p.weight + from, is_there);
    }
    for (int i = threadIdx.x; i < squeezed_tiles * (CHANNELS / 16) * 32; i += INVERTED_THREADS) {
        int tile = channel0 / 16 * squeezed_tiles + i / 32;
        bool is_there = tile < p.channels / 16 * squeezed_tiles;
        copy_async(squeeze + i * 8, p.squeeze + (is_there ? (tile * 32 + i % 32) * 8 : 0), is_there);
    }
    for (int i = threadIdx.x; i < 2 * CHANNELS; i += INVERTED_THREADS) {
        int channel = channel0 + i % CHANNELS;
        const float* from = i < CHANNELS ? p.widen_bias : p.bias;
        biases[i / CHANNELS][i % CHANNELS] = channel < p.channels ? from[channel] : 0;
    }
    wait_for_input();
    const u16* in = p.in + (u64)image * (STEM ? p.picture_height * p.picture_width * 4 : p.height * p.width * p.inputs);
    if (STEM) {
        for (int i = threadIdx.x; i < Seen::PIXELS * STEM_TAPS; i += INVERTED_THREADS) {
            int pixel = i / STEM_TAPS, tap = i % STEM_TAPS;
            int x = 2 * (sight.x + pixel % Seen::ACROSS) + tap % 3 - 1;
            int y = 2 * (sight.y + pixel / Seen::ACROSS) + tap / 3 - 1;
            bool is_there = tap < 9 && x >= 0 && x < p.picture_width && y >= 0 && y < p.picture_height;
            copy_async8(seen + pixel * pitch + 4 * tap, in + (is_there ? (y * p.picture_width + x) * 4 : 0), is_there);
        }
    } else {
        for (int pixel = own_line; pixel < Seen::PIXELS; pixel += step) {
            bool is_there = sight.is_inside(pixel);
            int from = is_there ? sight.place(pixel) * p.inputs + own_input : 0;
            copy_async(seen + pixel * pitch + own_input, in + from, is_there);
        }
    }
    copies_end();
    copies_wait<0>();
    __syncthreads();
    widened<CHANNELS>(sight, seen, widen, biases[0], p.inputs, p.widen_act, wide);
    __syncthreads();
    int group = threadIdx.x % GROUPS, slot = threadIdx.x / GROUPS;
    int own_x = slot % (WIDTH / EACH) * EACH, own_y = slot / (WIDTH / EACH);
    float sum[EACH][8];
    depthwise<SIZE, STRIDE, Seen>(wide + 8 * group, weight + 8 * group, CHANNELS, biases[1] + 8 * group, own_x, own_y,
                                  sum);
    float own[8] = {0, 0, 0, 0, 0, 0, 0, 0};
    int y = y0 + own_y, channel = channel0 + 8 * group;
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        int x = x0 + own_x + i;
        if (x >= p.out_width || y >= p.out_height || channel >= p.channels) continue;
#pragma unroll
        for (int c = 0; c < 8; c++) {
            sum[i][c] = activated(sum[i][c], p.act);
            own[c] += sum[i][c];
        }
        u64 pixel = ((u64)image * p.out_height + y) * p.out_width + x;
        *(Eight*)(p.out + pixel * p.channels + channel) = packed(sum[i]);
    }
#pragma unroll
    for (int c = 0; c < 8; c++) total[slot][8 * group + c] = own[c];
    __syncthreads();
    if (threadIdx.x < CHANNELS / 2) {
        float first = 0, second = 0;
#pragma unroll 8
        for (int i = 0; i < SLOTS; i++) {
            first += total[i][2 * threadIdx.x];
            second += total[i][2 * threadIdx.x + 1];
        }
        // Their means: half precision has no large numbers.
        constexpr float PART = 1.0f / (WIDTH * INVERTED_HEIGHT);
        put_pair(room, threadIdx.x, first * PART, second * PART);
    }
    __syncthreads();
    for (int row = warp; row < squeezed_tiles; row += INVERTED_THREADS / 32) {
        float sum[4] = {0, 0, 0, 0};
#pragma unroll
        for (int i = 0; i < CHANNELS / 16; i++) {
            times_vector(sum, ((const Eight*)squeeze)[(i * squeezed_tiles + row) * 32 + lane], room, i);
        }
        if (lane % 4 == 0) {
            constexpr float UNIT = SUM_UNIT * (WIDTH * INVERTED_HEIGHT);
            u64* to = p.sums + image * 16 * squeezed_tiles + 16 * row + lane / 4;
            add_to(to, to_whole((sum[0] + sum[1]) * UNIT));
            add_to(to + 8, to_whole((sum[2] + sum[3]) * UNIT));
        }
    }
    // Who counts this block finds what it has added.
    fence();
    __syncthreads();
    if (threadIdx.x == 0) add_one(p.arrived + 2 * image);
}

KERNEL THREADS_TIMES(INVERTED_THREADS, 4) stem(Inverted p) { inverted<3, 2, 16, 16, true>(p); }
KERNEL THREADS_TIMES(INVERTED_THREADS, 4) inverted5_1_64(Inverted p) { inverted<5, 1, 8, 64, false>(p); }
KERNEL THREADS_TIMES(INVERTED_THREADS, 4) inverted5_1_32(Inverted p) { inverted<5, 1, 8, 32, false>(p); }
KERNEL THREADS_TIMES(INVERTED_THREADS, 4) inverted5_2_64(Inverted p) { inverted<5, 2, 8, 64, false>(p); }
KERNEL THREADS_TIMES(INVERTED_THREADS, 4) inverted5_2_32(Inverted p) { inverted<5, 2, 8, 32, false>(p); }

// All of an inverted residual without squeeze-and-excitation, 3x3. A block has 8x4 pixels of the answer and all
// channels, of which it widens 32 at a time; what comes of them is the left side of the last product.
struct Whole {
    const u16* in;  // [image][height][width][inputs]
    const u16* widen;  // [channels][inputs]
    const float* widen_bias;
    const u16* weight;  // [9][channels]
    const float* bias;
    const u16* project;  // [32][channels]
    const float* project_bias;
    u16* out;  // [image][out_height][out_width][32]
    int height, width, out_height, out_width, inputs, channels, act;
    int is_residual;  // whether the input, of 32 channels and the same size, is added
};

#define WHOLE_WIDTH 8
#define WHOLE_CHANNELS 96  // the most
#define WHOLE_OUTPUTS 32

template <int STRIDE>
DEVICE void whole(const Whole& p) {
    constexpr int PART = 32, DEEP_PITCH = WHOLE_CHANNELS + 8;
    using Seen = Sight<3, STRIDE, WHOLE_WIDTH, PART>;
    static_assert(Seen::EACH == 1, "a thread has one pixel");
    SHARED float biases[2][WHOLE_CHANNELS];
    DYNAMIC_SHARED(u16, dynamic);
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, pitch = p.inputs + 8, image = blockIdx.z;
    u16* wide = dynamic;                                  // [TILES * 16][PITCH]
    u16* weight = wide + Seen::TILES * 16 * Seen::PITCH;  // [9][WHOLE_CHANNELS]
    u16* deep = weight + 9 * WHOLE_CHANNELS;              // [WHOLE_WIDTH * INVERTED_HEIGHT][DEEP_PITCH]
    u16* project = deep + WHOLE_WIDTH * INVERTED_HEIGHT * DEEP_PITCH;  // [WHOLE_OUTPUTS][DEEP_PITCH]
    u16* widen = project + WHOLE_OUTPUTS * DEEP_PITCH;    // [WHOLE_CHANNELS][pitch]
    u16* seen = widen + WHOLE_CHANNELS * pitch;           // [TILES * 16][pitch]
    int x0 = blockIdx.x * WHOLE_WIDTH, y0 = blockIdx.y * INVERTED_HEIGHT;
    Seen sight{x0 * STRIDE - 1, y0 * STRIDE - 1, p.width, p.height};
    int vectors = p.inputs / 8, step = INVERTED_THREADS / vectors, own_line = threadIdx.x / vectors;
    int own_input = threadIdx.x % vectors * 8;
    if (own_line >= step) own_line = WHOLE_CHANNELS + Seen::PIXELS;  // none
    // Weights are there before the kernel before has ended. What is beyond the channels is zero.
    for (int line = own_line; line < WHOLE_CHANNELS; line += step) {
        bool is_there = line < p.channels;
        copy_async(widen + line * pitch + own_input, p.widen + (is_there ? line * p.inputs + own_input : 0), is_there);
    }
    for (int i = threadIdx.x; i < 9 * (WHOLE_CHANNELS / 8); i += INVERTED_THREADS) {
        int line = i / (WHOLE_CHANNELS / 8), at = i % (WHOLE_CHANNELS / 8) * 8;
        bool is_there = at < p.channels;
        copy_async(weight + line * WHOLE_CHANNELS + at, p.weight + (is_there ? line * p.channels + at : 0), is_there);
    }
    for (int i = threadIdx.x; i < WHOLE_OUTPUTS * (WHOLE_CHANNELS / 8); i += INVERTED_THREADS) {
        int line = i / (WHOLE_CHANNELS / 8), at = i % (WHOLE_CHANNELS / 8) * 8;
        bool is_there = at < p.channels;
        copy_async(project + line * DEEP_PITCH + at, p.project + (is_there ? line * p.channels + at : 0), is_there);
    }
    for (int i = threadIdx.x; i < 2 * WHOLE_CHANNELS; i += INVERTED_THREADS) {
        int channel = i % WHOLE_CHANNELS;
        const float* from = i < WHOLE_CHANNELS ? p.widen_bias : p.bias;
        biases[i / WHOLE_CHANNELS][channel] = channel < p.channels ? from[channel] : 0;
    }
    // Of the answer a warp has 16 pixels and 16 outputs.
    int output = warp % 2 * 16 + lane % 4 * 2;
    float sum[2][4];
#pragma unroll
    for (int j = 0; j < 2; j++)
#pragma unroll
        for (int k = 0; k < 4; k++) sum[j][k] = p.project_bias[output + 8 * j + k % 2];
    wait_for_input();
    const u16* in = p.in + (u64)image * p.height * p.width * p.inputs;
    for (int pixel = own_line; pixel < Seen::PIXELS; pixel += step) {
        bool is_there = sight.is_inside(pixel);
        int from = is_there ? sight.place(pixel) * p.inputs + own_input : 0;
        copy_async(seen + pixel * pitch + own_input, in + from, is_there);
    }
    copies_end();
    copies_wait<0>();
    __syncthreads();
    int group = threadIdx.x % Seen::GROUPS, slot = threadIdx.x / Seen::GROUPS;
#pragma unroll 1
    for (int first = 0; first < WHOLE_CHANNELS; first += PART) {
        widened<PART>(sight, seen, widen + first * pitch, biases[0] + first, p.inputs, p.act, wide);
        __syncthreads();
        int channel = first + 8 * group;
        float v[1][8];
        depthwise<3, STRIDE, Seen>(wide + 8 * group, weight + channel, WHOLE_CHANNELS, biases[1] + channel,
                                   slot % WHOLE_WIDTH, slot / WHOLE_WIDTH, v);
#pragma unroll
        for (int c = 0; c < 8; c++) v[0][c] = activated(v[0][c], p.act);
        *(Eight*)(deep + slot * DEEP_PITCH + channel) = packed(v[0]);
        __syncthreads();
    }
    const u16* row = deep + (warp / 2 * 16 + lane % 16) * DEEP_PITCH + lane / 16 * 8;
    const u16* line = project + (warp % 2 * 16 + lane % 8 + lane / 16 * 8) * DEEP_PITCH + lane / 8 % 2 * 8;
#pragma unroll
    for (int channel = 0; channel < WHOLE_CHANNELS; channel += 16) {
        u32 a[4], w[4];
        load_matrices(a, row + channel);
        load_matrices(w, line + channel);
#pragma unroll
        for (int j = 0; j < 2; j++) {
            u32 part[2] = {w[2 * j], w[2 * j + 1]};
            mma(sum[j], a, part);
        }
    }
#pragma unroll
    for (int under = 0; under < 2; under++) {
        int at = warp / 2 * 16 + lane / 4 + 8 * under, at_x = at % WHOLE_WIDTH, at_y = at / WHOLE_WIDTH;
        int x = x0 + at_x, y = y0 + at_y;
        if (x >= p.out_width || y >= p.out_height) continue;
        u16* out = p.out + (((u64)image * p.out_height + y) * p.out_width + x) * WHOLE_OUTPUTS;
        const u16* same = seen + ((at_y + 1) * Seen::ACROSS + at_x + 1) * pitch;
#pragma unroll
        for (int j = 0; j < 2; j++) {
            float v0 = sum[j][2 * under], v1 = sum[j][2 * under + 1];
            if (p.is_residual) {
                u32 add = *(const u32*)(same + output + 8 * j);
                v0 += low(add);
                v1 += high(add);
            }
            *(u32*)(out + output + 8 * j) = pack(v0, v1);
        }
    }
}

KERNEL THREADS_TIMES(INVERTED_THREADS, 4) whole1(Whole p) { whole<1>(p); }
KERNEL THREADS_TIMES(INVERTED_THREADS, 4) whole2(Whole p) { whole<2>(p); }

// ---- products: 1x1 convolutions ---------------------------------------------------------------------------------------

// out = act([a, b] weight' + bias + enlarged + add), of which all but `a`, `weight` and `out` may be left out. A block
// has ROWS pixels of an image (blockIdx.z) and OUTPUTS outputs, and four warps, ACROSS of them beside each other.
// Inputs come 64 at a time, `stages` of these chunks on their way at once: all of them, if there are no more.
struct Product {
    const u16* a;  // [image][pixels][a_channels]
    const u16* b;  // [image][pixels][b_channels]
    const u16* weight;  // [outputs][a_channels + b_channels]
    const float* bias;
    const float* factors;  // [image][a_channels]: of `a`
    const u16* enlarged;  // [image][small_height][small_width][outputs], bilinearly
    const u16* add;  // [image][pixels][outputs]
    u16* out;
    int outputs, a_channels, b_channels, act;
    int height, width, small_height, small_width;
    int stages;
};

#define CHUNK 64
#define PITCH 72  // of a row in shared memory: fragments then come from 32 different banks
#define PRODUCT_THREADS 128

template <int ROWS, int OUTPUTS, int ACROSS, bool FACTORS, bool ENLARGED>
DEVICE void product(const Product& p) {
    // Tiles of a warp's part; vectors of a thread's part of the answer.
    constexpr int PART_ROWS = ROWS / (4 / ACROSS), PART_OUTPUTS = OUTPUTS / ACROSS;
    constexpr int DOWN = PART_ROWS / 16, TILES = PART_OUTPUTS / 8, GROUPS = OUTPUTS / 8;
    constexpr int EACH = (ROWS * GROUPS + PRODUCT_THREADS - 1) / PRODUCT_THREADS, SUM_PITCH = OUTPUTS + 8;
    // A product waits for the one before on the same sums: two sets of them where there are few.
    constexpr int SETS = DOWN * TILES < 4 ? 2 : 1;
    DYNAMIC_SHARED(u16, dynamic);
    SHARED ALIGNED float factors[FACTORS ? MOST_CHANNELS : 4];
    u16* room = dynamic;
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, image = blockIdx.z;
    int row0 = blockIdx.x * ROWS, output0 = blockIdx.y * OUTPUTS;
    int inputs = p.a_channels + p.b_channels, pixels = p.height * p.width;
    int chunks = (inputs + CHUNK - 1) / CHUNK, ahead = chunks <= p.stages ? chunks : p.stages - 1;
    const u16* a = p.a + (u64)image * pixels * p.a_channels;
    const u16* b = p.b + (u64)image * pixels * p.b_channels;
    // What each thread fetches of a chunk: eight inputs of every sixteenth line.
    int own_line = threadIdx.x / 8, own_input = threadIdx.x % 8 * 8;
    auto fetch_weights = [&](int chunk, int place) {
        u16* tile = room + (place * (ROWS + OUTPUTS) + ROWS) * PITCH;
        int input = chunk * CHUNK + own_input;
#pragma unroll
        for (int line = own_line; line < OUTPUTS; line += 16) {
            bool is_there = input < inputs && output0 + line < p.outputs;
            int from = is_there ? (output0 + line) * inputs + input : 0;
            copy_async(tile + line * PITCH + own_input, p.weight + from, is_there);
        }
    };
    auto fetch = [&](int chunk, int place) {
        u16* tile = room + place * (ROWS + OUTPUTS) * PITCH;
        int input = chunk * CHUNK + own_input;
        bool is_a = input < p.a_channels;
        const u16* source = is_a ? a + input : b + input - p.a_channels;
        int channels = is_a ? p.a_channels : p.b_channels;
#pragma unroll
        for (int line = own_line; line < ROWS; line += 16) {
            bool is_there = input < inputs && row0 + line < pixels;
            copy_async(tile + line * PITCH + own_input, is_there ? source + (row0 + line) * channels : p.a, is_there);
        }
    };
    // Weights are there before the kernel before has ended.
    for (int chunk = 0; chunk < ahead; chunk++) fetch_weights(chunk, chunk);
    // Of the answer each thread has eight channels of some pixels.
    int group = threadIdx.x % GROUPS, first = threadIdx.x / GROUPS, own_output = output0 + 8 * group;
    bool has_output = own_output < p.outputs;
    float bias[8] = {0, 0, 0, 0, 0, 0, 0, 0};
    if (has_output && p.bias != 0) load_eight(p.bias + own_output, bias);
    wait_for_input();
    if (FACTORS) {
        // What is beyond the inputs is multiplied, too, with zeros.
        for (int i = threadIdx.x * 4; i < chunks * CHUNK; i += 4 * PRODUCT_THREADS) {
            bool is_there = i < p.a_channels;
            copy_async(factors + i, p.factors + (is_there ? image * p.a_channels + i : 0), is_there);
        }
    }
    for (int chunk = 0; chunk < ahead; chunk++) {
        fetch(chunk, chunk);
        copies_end();
    }
    // What is added comes while the product's inputs come.
    Eight add[EACH], corner[EACH][4];
    float enlarged[ENLARGED ? EACH : 1][8], down[EACH], right[EACH];
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        int line = first + i * (PRODUCT_THREADS / GROUPS), row = row0 + line;
        bool is_there = line < ROWS && row < pixels && has_output;
        add[i] = is_there && p.add != 0 ? *(const Eight*)(p.add + ((u64)image * pixels + row) * p.outputs + own_output)
                                        : eight_of(0);
        if (!ENLARGED) continue;
        row = row < pixels ? row : pixels - 1;
        Lerp ly = lerp_at(row / p.width, p.small_height, p.height), lx = lerp_at(row % p.width, p.small_width, p.width);
        const u16* small = p.enlarged + (u64)image * p.small_height * p.small_width * p.outputs;
        small += has_output ? own_output : 0;
        auto at = [&](int y, int x) { return *(const Eight*)(small + (y * p.small_width + x) * p.outputs); };
        corner[i][0] = at(ly.first, lx.first);
        corner[i][1] = at(ly.first, lx.next);
        corner[i][2] = at(ly.next, lx.first);
        corner[i][3] = at(ly.next, lx.next);
        down[i] = ly.weight;
        right[i] = lx.weight;
    }
    if (ENLARGED) {
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            float y1 = down[i], x1 = right[i], y0 = 1 - y1, x0 = 1 - x1, part[4] = {y0 * x0, y0 * x1, y1 * x0, y1 * x1};
            float* all = enlarged[ENLARGED ? i : 0];
#pragma unroll
            for (int c = 0; c < 8; c++) all[c] = 0;
#pragma unroll
            for (int k = 0; k < 4; k++) {
                float v[8];
                unpack(corner[i][k], v);
#pragma unroll
                for (int c = 0; c < 8; c++) all[c] += part[k] * v[c];
            }
        }
    }
    float sum[SETS][DOWN][TILES][4];
#pragma unroll
    for (int s = 0; s < SETS; s++)
#pragma unroll
        for (int i = 0; i < DOWN; i++)
#pragma unroll
            for (int j = 0; j < TILES; j++)
#pragma unroll
                for (int k = 0; k < 4; k++) sum[s][i][j][k] = 0;
    int part_row = warp / ACROSS * PART_ROWS, part_output = warp % ACROSS * PART_OUTPUTS;
    bool works = output0 + part_output < p.outputs;
    int place = 0, free = ahead;
    if (FACTORS) {
        // They have come with the first chunk, by all threads.
        copies_wait_but(ahead - 1);
        __syncthreads();
    }
    for (int chunk = 0; chunk < chunks; chunk++) {
        copies_wait_but(ahead - 1);
        if (FACTORS) {
            // What a thread has fetched itself it sees already.
            float f[8], v[8];
            load_eight(factors + chunk * CHUNK + own_input, f);
#pragma unroll
            for (int line = own_line; line < ROWS; line += 16) {
                Eight* own = (Eight*)(room + (place * (ROWS + OUTPUTS) + line) * PITCH + own_input);
                unpack(*own, v);
#pragma unroll
                for (int c = 0; c < 8; c++) v[c] *= f[c];
                *own = packed(v);
            }
        }
        __syncthreads();
        if (chunk + ahead < chunks) {
            fetch_weights(chunk + ahead, free);
            fetch(chunk + ahead, free);
        }
        copies_end();
        const u16* tile = room + place * (ROWS + OUTPUTS) * PITCH;
        free = place;
        place = place + 1 < p.stages ? place + 1 : 0;
        if (!works) continue;
        const u16* row = tile + (part_row + lane % 16) * PITCH + lane / 16 * 8;
        const u16* line = tile + (ROWS + part_output + lane % 8) * PITCH + lane / 8 * 8;
        // Always all of it: what is beyond the inputs is zero. All loads first, where there are registers for them.
        constexpr int UNIT = ROWS > 32 ? 32 : CHUNK, STEPS = UNIT / 16;
#pragma unroll
        for (int start = 0; start < CHUNK; start += UNIT) {
            u32 left[STEPS][DOWN][4], right[TILES][STEPS / 2][4];
#pragma unroll
            for (int step = 0; step < STEPS; step++)
#pragma unroll
                for (int i = 0; i < DOWN; i++) {
                    load_matrices(left[step][i], row + 16 * i * PITCH + start + 16 * step);
                }
#pragma unroll
            for (int j = 0; j < TILES; j++)
#pragma unroll
                for (int pair = 0; pair < STEPS / 2; pair++) {
                    load_matrices(right[j][pair], line + 8 * j * PITCH + start + 32 * pair);
                }
#pragma unroll
            for (int step = 0; step < STEPS; step++) {
#pragma unroll
                for (int i = 0; i < DOWN; i++) {
#pragma unroll
                    for (int j = 0; j < TILES; j++) {
                        const u32(&w)[4] = right[j][step / 2];
                        u32 part[2] = {w[step % 2 * 2], w[step % 2 * 2 + 1]};
                        mma(sum[step % SETS][i][j], left[step][i], part);
                    }
                }
            }
        }
    }
    // Through shared memory, so that each thread gets eight channels of a pixel.
    __syncthreads();
    float* sums = (float*)room;
#pragma unroll
    for (int i = 0; i < DOWN; i++)
#pragma unroll
        for (int j = 0; j < TILES; j++)
#pragma unroll
            for (int k = 0; k < 4; k++) {
                int line = part_row + 16 * i + lane / 4 + k / 2 * 8;
                int output = part_output + 8 * j + lane % 4 * 2 + k % 2;
                sums[line * SUM_PITCH + output] = sum[0][i][j][k] + (SETS > 1 ? sum[SETS - 1][i][j][k] : 0);
            }
    __syncthreads();
    if (!has_output) return;
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        int at = first + i * (PRODUCT_THREADS / GROUPS), row = row0 + at;
        if (at >= ROWS || row >= pixels) continue;
        float v[8], more[8];
        load_eight(sums + at * SUM_PITCH + 8 * group, v);
        unpack(add[i], more);
#pragma unroll
        for (int c = 0; c < 8; c++) v[c] += bias[c] + more[c];
#pragma unroll
        for (int c = 0; c < 8; c++) v[c] = activated(ENLARGED ? v[c] + enlarged[ENLARGED ? i : 0][c] : v[c], p.act);
        *(Eight*)(p.out + ((u64)image * pixels + row) * p.outputs + own_output) = packed(v);
    }
}

KERNEL THREADS(PRODUCT_THREADS) product64(Product p) { product<64, 64, 2, false, false>(p); }
KERNEL THREADS(PRODUCT_THREADS) product64_factors(Product p) { product<64, 64, 2, true, false>(p); }
KERNEL THREADS_TIMES(PRODUCT_THREADS, 4) product64_enlarged(Product p) { product<64, 64, 2, false, true>(p); }
KERNEL THREADS(PRODUCT_THREADS) product32(Product p) { product<32, 32, 2, false, false>(p); }
KERNEL THREADS(PRODUCT_THREADS) product32_factors(Product p) { product<32, 32, 2, true, false>(p); }
KERNEL THREADS(PRODUCT_THREADS) product32_enlarged(Product p) { product<32, 32, 2, false, true>(p); }
KERNEL THREADS(PRODUCT_THREADS) product16(Product p) { product<16, 32, 4, false, false>(p); }
KERNEL THREADS(PRODUCT_THREADS) product16_factors(Product p) { product<16, 32, 4, true, false>(p); }
KERNEL THREADS(PRODUCT_THREADS) product16_enlarged(Product p) { product<16, 32, 4, false, true>(p); }

// ---- the decoder's poolings -------------------------------------------------------------------------------------------

// A stage of a chain: pooled = the 5x5 maxima of top; sum_out = sum_in + top + pooled; out = pooled weight'. In the
// LAST stage nothing of that sum is written: out = [sum, pooled] weight'.
//
// A block has WIDTH x 4 pixels of an image and OUTPUTS outputs; gridDim.z = images x outputs / OUTPUTS. A warp has a
// column's 256 channels, eight a lane, and takes the maxima along it from global memory, then along rows from shared
// memory; what comes of that is the product's left side, which stays in shared memory whole. The weights come 32 inputs
// at a time, `stages` of these chunks on their way at once; with STAYS all of them are there before they are needed.
struct Chain {
    const u16* top;     // [image][height][width][256]
    const u16* sum_in;  // or null: 0
    u16* sum_out;       // may be sum_in
    const u16* weight;  // [inputs / 32][outputs][32]; of output o eight i of a chunk is where i ^ o / 2 % 4 would be
    u16* out;           // another than top
    int height, width, outputs, stages;
    int planes;  // whether `out` is [image][outputs / 8][pixel][8]: who goes along rows with eight channels reads it so
};

#define CHAIN_CHANNELS 256
#define CHAIN_GROUPS (CHAIN_CHANNELS / 8)
#define CHAIN_HEIGHT 4
#define CHAIN_CHUNK 32
#define CHAIN_THREADS 256

// Five neighbours' maxima of all that are given.
template <int COUNT>
DEVICE void five_maxima(const Eight (&v)[COUNT + 4], Eight (&m)[COUNT]) {
    Eight pair[COUNT + 3];
#pragma unroll
    for (int i = 0; i < COUNT + 3; i++) pair[i] = max8(v[i], v[i + 1]);
#pragma unroll
    for (int i = 0; i < COUNT; i++) m[i] = max8(max8(pair[i], pair[i + 2]), v[i + 4]);
}

template <int WIDTH, int OUTPUTS, bool STAYS, bool LAST>
DEVICE void chain(const Chain& p) {
    constexpr int INPUTS = LAST ? 2 * CHAIN_CHANNELS : CHAIN_CHANNELS, CHUNKS = INPUTS / CHAIN_CHUNK;
    constexpr int PIXELS = WIDTH * CHAIN_HEIGHT, WIDE = WIDTH + 4, LEFT_PITCH = INPUTS + 8, OUT_PITCH = OUTPUTS + 8;
    constexpr int COLUMNS = (WIDE + 7) / 8;  // of a warp
    constexpr int OWN = WIDTH / 2;           // pixels of a warp, half a row
    // Vectors of the maxima along columns, and of the product's left side, which is later written over them.
    constexpr int MAXIMA = CHAIN_HEIGHT * WIDE * CHAIN_GROUPS, LEFT = PIXELS * LEFT_PITCH / 8;
    constexpr int VECTORS = OUTPUTS * CHAIN_CHUNK / 8;  // of a chunk of weights
    DYNAMIC_SHARED(u16, dynamic);
    Eight* room = (Eight*)dynamic;
    Eight* weights = room + (MAXIMA > LEFT ? MAXIMA : LEFT);
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int slices = p.outputs / OUTPUTS, image = blockIdx.z / slices, slice = blockIdx.z % slices;
    int x0 = blockIdx.x * WIDTH, y0 = blockIdx.y * CHAIN_HEIGHT;
    const Eight* source = (const Eight*)p.weight + slice * VECTORS;
    auto fetch = [&](int chunk, int place) {
#pragma unroll
        for (int i = threadIdx.x; i < VECTORS; i += CHAIN_THREADS) {
            copy_async(weights + place * VECTORS + i, source + chunk * p.outputs * (CHAIN_CHUNK / 8) + i, true);
        }
    };
    // Weights are there before the kernel before has ended.
    int ahead = STAYS ? CHUNKS : p.stages - 1;
    for (int chunk = 0; chunk < ahead; chunk++) {
        fetch(chunk, chunk);
        copies_end();
    }
    wait_for_input();
    const Eight* top = (const Eight*)p.top + (u64)image * p.height * p.width * CHAIN_GROUPS + lane;
    Eight column[COLUMNS][CHAIN_HEIGHT + 4];
#pragma unroll
    for (int k = 0; k < COLUMNS; k++) {
        int x = x0 + warp + 8 * k - 2;
        bool is_column = warp + 8 * k < WIDE && x >= 0 && x < p.width;
#pragma unroll
        for (int i = 0; i < CHAIN_HEIGHT + 4; i++) {
            int y = y0 + i - 2;
            bool is_inside = is_column && y >= 0 && y < p.height;
            column[k][i] = is_inside ? top[(y * p.width + x) * CHAIN_GROUPS] : eight_of(NONE_LOWEST);
        }
    }
    // What is added to the maxima. A block that has not all outputs adds up its part of the channels only, unless its
    // product needs the sum.
    int y = y0 + warp / 2, x = x0 + warp % 2 * OWN;
    bool adds = y < p.height && (LAST || lane / (OUTPUTS / 8) == slice);
    u64 base = ((u64)image * p.height + y) * p.width;
    const Eight* sum_in = p.sum_in == 0 ? 0 : (const Eight*)p.sum_in + base * CHAIN_GROUPS + lane;
    Eight own[OWN], before[OWN];
    auto load_sums = [&]() {
#pragma unroll
        for (int i = 0; i < OWN; i++) {
            bool is_inside = adds && x + i < p.width;
            own[i] = is_inside ? top[(y * p.width + x + i) * CHAIN_GROUPS] : eight_of(0);
            before[i] = is_inside && sum_in != 0 ? sum_in[(x + i) * CHAIN_GROUPS] : eight_of(0);
        }
    };
    // All loads at once where there are registers for them.
    if (WIDTH <= 8) load_sums();
#pragma unroll
    for (int k = 0; k < COLUMNS; k++) {
        if (warp + 8 * k >= WIDE) continue;
        Eight m[CHAIN_HEIGHT];
        five_maxima<CHAIN_HEIGHT>(column[k], m);
#pragma unroll
        for (int i = 0; i < CHAIN_HEIGHT; i++) room[(i * WIDE + warp + 8 * k) * CHAIN_GROUPS + lane] = m[i];
    }
    if (WIDTH > 8) load_sums();
    __syncthreads();
    Eight line[OWN + 4], pooled[OWN];
#pragma unroll
    for (int i = 0; i < OWN + 4; i++) line[i] = room[(warp / 2 * WIDE + warp % 2 * OWN + i) * CHAIN_GROUPS + lane];
    five_maxima<OWN>(line, pooled);
    __syncthreads();
    u16* left = (u16*)room;
#pragma unroll
    for (int i = 0; i < OWN; i++) {
        Eight* pixel = (Eight*)(left + (warp * OWN + i) * LEFT_PITCH);
        pixel[lane + (LAST ? CHAIN_GROUPS : 0)] = pooled[i];
        float a[8], b[8], c[8];
        unpack(own[i], a);
        unpack(pooled[i], b);
        unpack(before[i], c);
#pragma unroll
        for (int j = 0; j < 8; j++) a[j] += b[j] + c[j];
        if (LAST) {
            pixel[lane] = packed(a);
        } else if (adds && x + i < p.width) {
            ((Eight*)p.sum_out)[(base + x + i) * CHAIN_GROUPS + lane] = packed(a);
        }
    }
    // The product: two warps down, four across.
    constexpr int ROWS = PIXELS / 32, TILES = OUTPUTS / 32;
    // A product waits for the one before on the same sums: two sets of them where there are few.
    constexpr int SETS = ROWS * TILES < 4 ? 2 : 1;
    int row0 = warp / 4 * (PIXELS / 2), output0 = warp % 4 * (OUTPUTS / 4);
    float sum[SETS][ROWS][TILES][4];
#pragma unroll
    for (int s = 0; s < SETS; s++)
#pragma unroll
        for (int i = 0; i < ROWS; i++)
#pragma unroll
            for (int j = 0; j < TILES; j++)
#pragma unroll
                for (int k = 0; k < 4; k++) sum[s][i][j][k] = 0;
    const u16* own_row = left + (row0 + lane % 16) * LEFT_PITCH + lane / 16 * 8;
    // Four eights of eight outputs.
    const Eight* own_output = weights + (output0 + lane % 8) * 4 + (lane / 8 ^ lane % 8 / 2);
    auto multiply = [&](int chunk, int place) {
        u32 a[2][ROWS][4];
#pragma unroll
        for (int step = 0; step < 2; step++)
#pragma unroll
            for (int i = 0; i < ROWS; i++) {
                load_matrices(a[step][i], own_row + 16 * i * LEFT_PITCH + chunk * CHAIN_CHUNK + 16 * step);
            }
#pragma unroll
        for (int j = 0; j < TILES; j++) {
            u32 w[4];
            load_matrices(w, own_output + place * VECTORS + 8 * j * 4);
#pragma unroll
            for (int step = 0; step < 2; step++) {
                u32 part[2] = {w[2 * step], w[2 * step + 1]};
#pragma unroll
                for (int i = 0; i < ROWS; i++) mma(sum[step % SETS][i][j], a[step][i], part);
            }
        }
    };
    if (STAYS) {
        copies_wait<0>();
        __syncthreads();
#pragma unroll 4
        for (int chunk = 0; chunk < CHUNKS; chunk++) multiply(chunk, chunk);
    } else {
        int place = 0, free = ahead;
#pragma unroll 1
        for (int chunk = 0; chunk < CHUNKS; chunk++) {
            copies_wait_but(p.stages - 2);
            __syncthreads();
            if (chunk + ahead < CHUNKS) fetch(chunk + ahead, free);
            copies_end();
            multiply(chunk, place);
            free = place;
            place = place + 1 < p.stages ? place + 1 : 0;
        }
    }
    // Through shared memory, so that whole lines are written.
    __syncthreads();
#pragma unroll
    for (int i = 0; i < ROWS; i++)
#pragma unroll
        for (int j = 0; j < TILES; j++) {
            float v[4];
#pragma unroll
            for (int k = 0; k < 4; k++) v[k] = sum[0][i][j][k] + (SETS > 1 ? sum[SETS - 1][i][j][k] : 0);
            u16* at = left + (row0 + 16 * i + lane / 4) * OUT_PITCH + output0 + 8 * j + lane % 4 * 2;
            *(u32*)at = pack(v[0], v[1]);
            *(u32*)(at + 8 * OUT_PITCH) = pack(v[2], v[3]);
        }
    __syncthreads();
    constexpr int PARTS = OUTPUTS / 8;
    int groups = p.outputs / 8;
    u64 start = (u64)image * p.height * p.width * groups;
#pragma unroll
    for (int i = threadIdx.x; i < PIXELS * PARTS; i += CHAIN_THREADS) {
        // Threads go along what lies beside each other in memory.
        int pixel = p.planes ? i % PIXELS : i / PARTS, part = p.planes ? i / PIXELS : i % PARTS;
        int ox = x0 + pixel % WIDTH, oy = y0 + pixel / WIDTH, group = slice * PARTS + part;
        if (ox >= p.width || oy >= p.height) continue;
        int at = oy * p.width + ox;
        Eight* out = (Eight*)p.out + start + (p.planes ? group * p.height * p.width + at : at * groups + group);
        *out = *(const Eight*)(left + pixel * OUT_PITCH + part * 8);
    }
}

KERNEL THREADS_TIMES(CHAIN_THREADS, 2) chain256(Chain p) { chain<16, 256, false, false>(p); }
KERNEL THREADS_TIMES(CHAIN_THREADS, 2) chain256_last(Chain p) { chain<16, 256, false, true>(p); }
KERNEL THREADS_TIMES(CHAIN_THREADS, 2) chain64(Chain p) { chain<8, 64, true, false>(p); }
KERNEL THREADS_TIMES(CHAIN_THREADS, 2) chain64_last(Chain p) { chain<8, 64, true, true>(p); }
KERNEL THREADS_TIMES(CHAIN_THREADS, 2) chain32(Chain p) { chain<8, 32, true, false>(p); }
KERNEL THREADS_TIMES(CHAIN_THREADS, 2) chain32_last(Chain p) { chain<8, 32, true, true>(p); }

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
            load_matrices(a, line + row * HEAD_WIDTH * room.VECTORS);
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
        int x = x0 + i % 16, y = y0 + i / 16, best = 255;
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
