// The refinement of the depth, in single precision (model/refine.rs has what it is; layers.rs the launches). It is a tenth of
// the network's arithmetic, on small maps, so plain threads do: one for each pixel and eight of a map's channels, the lanes
// of a warp beside each other in a row, so that they all want the same weights.
//
// Maps are [image][channel][row][column].

#define REFINE_CHANNELS 24
#define REFINE_EACH 8                                           // channels of a thread
#define REFINE_THREADS (32 * REFINE_CHANNELS / REFINE_EACH)     // of a block: 32 pixels of a row
#define REFINE_RINGS 4

struct RefineStart {
    const float* answer;  // [image][height][width][channels]: scores, the depth's code, and what else there is
    const float* bias;    // [24]
    const float* score;   // [classes][24]
    const float* ring;    // [ring][row][column][24]
    float* out;
    int height, width, channels, classes;
    int reach[REFINE_RINGS];
};

struct RefineBlock {
    const float* in;
    const float* bias;    // [24]
    const float* weight;  // [row][column][input][24]
    float* out;
    int height, width, dilation;
};

struct RefineLast {
    const float* in;
    const float* weight;  // [row][column][24]
    float* answer;        // as above; the depth's code is corrected
    float bias;
    int height, width, channels, classes;
};

// Adds a value's products with the weights of a thread's channels.
DEVICE void refine_add(float value, const float* weights, float (&sum)[REFINE_EACH]) {
    float weight[REFINE_EACH];
    load_eight(weights, weight);
#pragma unroll
    for (int i = 0; i < REFINE_EACH; i++) sum[i] += value * weight[i];
}

// A thread's pixel and the first of its channels; whether there is such a pixel.
DEVICE bool refine_place(int width, int& x, int& first) {
    x = blockIdx.x * 32 + threadIdx.x % 32;
    first = threadIdx.x / 32 * REFINE_EACH;
    return x < width;
}

DEVICE void refine_store(float* out, int first, int y, int x, int height, int width, const float (&sum)[REFINE_EACH]) {
#pragma unroll
    for (int i = 0; i < REFINE_EACH; i++) {
        u64 plane = (u64)blockIdx.z * REFINE_CHANNELS + first + i;
        out[(plane * height + y) * width + x] = sum[i] > 0 ? sum[i] : 0;
    }
}

DEVICE int refine_within(int at, int size) { return at < 0 ? 0 : at < size ? at : size - 1; }

KERNEL THREADS(REFINE_THREADS) refine_start(RefineStart p) {
    wait_for_input();
    int x, first, y = blockIdx.y;
    if (!refine_place(p.width, x, first)) return;
    const float* image = p.answer + (u64)blockIdx.z * p.height * p.width * p.channels;
    const float* own = image + ((u64)y * p.width + x) * p.channels;
    // Softmax, of which the division comes last.
    float most = own[0], whole = 0, sum[REFINE_EACH] = {};
    for (int c = 1; c < p.classes; c++) most = own[c] > most ? own[c] : most;
    for (int c = 0; c < p.classes; c++) {
        float part = expf(own[c] - most);
        whole += part;
        refine_add(part, p.score + c * REFINE_CHANNELS + first, sum);
    }
    float bias[REFINE_EACH];
    load_eight(p.bias + first, bias);
#pragma unroll
    for (int i = 0; i < REFINE_EACH; i++) sum[i] = sum[i] / whole + bias[i];
    const float* code = image + p.classes;
    const float* weights = p.ring + first;
    for (int ring = 0; ring < REFINE_RINGS; ring++) {
        for (int tap = 0; tap < 9; tap++, weights += REFINE_CHANNELS) {
            // Beyond the edge is what is at the edge.
            int row = refine_within(y + (tap / 3 - 1) * p.reach[ring], p.height);
            int column = refine_within(x + (tap % 3 - 1) * p.reach[ring], p.width);
            refine_add(code[((u64)row * p.width + column) * p.channels], weights, sum);
        }
    }
    refine_store(p.out, first, y, x, p.height, p.width, sum);
}

KERNEL THREADS(REFINE_THREADS) refine_block(RefineBlock p) {
    wait_for_input();
    int x, first, y = blockIdx.y;
    if (!refine_place(p.width, x, first)) return;
    u64 plane = (u64)p.height * p.width;
    const float* image = p.in + blockIdx.z * REFINE_CHANNELS * plane;
    float sum[REFINE_EACH];
    load_eight(p.bias + first, sum);
#pragma unroll
    for (int i = 0; i < REFINE_EACH; i++) sum[i] += image[(first + i) * plane + (u64)y * p.width + x];
    for (int tap = 0; tap < 9; tap++) {
        int row = y + (tap / 3 - 1) * p.dilation, column = x + (tap % 3 - 1) * p.dilation;
        if (row < 0 || row >= p.height) continue;
        bool is_there = column >= 0 && column < p.width;
        const float* from = image + (u64)row * p.width + (is_there ? column : 0);
        const float* weights = p.weight + tap * REFINE_CHANNELS * REFINE_CHANNELS + first;
#pragma unroll 8
        for (int input = 0; input < REFINE_CHANNELS; input++) {
            float value = is_there ? from[input * plane] : 0;
            refine_add(value, weights + input * REFINE_CHANNELS, sum);
        }
    }
    refine_store(p.out, first, y, x, p.height, p.width, sum);
}

// One thread for each pixel, gridDim.z = images.
KERNEL THREADS(32) refine_last(RefineLast p) {
    wait_for_input();
    int x = blockIdx.x * 32 + threadIdx.x, y = blockIdx.y;
    if (x >= p.width) return;
    u64 plane = (u64)p.height * p.width;
    const float* image = p.in + blockIdx.z * REFINE_CHANNELS * plane;
    float sum = p.bias;
    for (int tap = 0; tap < 9; tap++) {
        int row = y + tap / 3 - 1, column = x + tap % 3 - 1;
        if (row < 0 || row >= p.height || column < 0 || column >= p.width) continue;
        const float* from = image + (u64)row * p.width + column;
        const float* weights = p.weight + tap * REFINE_CHANNELS;
#pragma unroll
        for (int input = 0; input < REFINE_CHANNELS; input++) sum += from[input * plane] * weights[input];
    }
    // A fifth: the code is a fifth of the logarithm.
    p.answer[(blockIdx.z * plane + (u64)y * p.width + x) * p.channels + p.classes] += sum * 0.2f;
}
