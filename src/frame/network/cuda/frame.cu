// What comes before and after a network, whoever computes it: a picture's bytes -> its input, its answer -> labels and
// metres.

// ---- before the network ---------------------------------------------------------------------------------------------

// INPUT_HALF: half precision, [height][width][4], the fourth is 0. The others are single precision, [height][width][3];
// of INPUT_BYTES the numbers are whole, 0 to 255.
enum { INPUT_HALF = 0, INPUT_FLOAT = 1, INPUT_BYTES = 2 };

// Bytes of a picture -> the network's input: resampled by tables of weights, normalised. One thread a pixel of the
// input.
struct Prepare {
    const u8* bytes;       // rows of `step` bytes, from the first row that is read
    void* out;
    const int* columns;    // first source column of each, from the rectangle's start
    const float* column_weights;  // [to_width][column_taps]
    const int* rows;
    const float* row_weights;
    int step, pixel, offset0, offset1, offset2;  // bytes of a pixel, of the channels in it in the input's order
    int column_taps, row_taps;
    int width, height, to_x, to_y, to_width, to_height;
    int kind;
    float scale[3], bias[3], padding[3];
};

KERNEL prepare(Prepare p) {
    wait_for_input();
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= p.width * p.height) return;
    int x = i % p.width - p.to_x, y = i / p.width - p.to_y;
    float v[3] = {p.padding[0], p.padding[1], p.padding[2]};
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
        for (int c = 0; c < 3; c++) {
            // The nearest byte, halves up.
            v[c] = p.kind == INPUT_BYTES ? (float)(u8)(sum[c] + 0.5f) : MUL(sum[c], p.scale[c]) + p.bias[c];
        }
    }
    if (p.kind == INPUT_HALF) {
        u32* out = (u32*)p.out + 2 * (u64)i;
        out[0] = pack(v[0], v[1]);
        out[1] = pack(v[2], 0);
    } else {
        float* out = (float*)p.out + 3 * (u64)i;
#pragma unroll
        for (int c = 0; c < 3; c++) out[c] = v[c];
    }
}

// ---- after the network ------------------------------------------------------------------------------------------------

// The class of each pixel of an answer that did not come with it: the channel with the greatest score, the first among
// equals, no number never; or the label that the answer has, 255 where it is none. One thread a pixel.
struct Best {
    const float* answer;  // [pixels][channels]
    u8* best;             // [pixels]
    int pixels, channels, scores, is_labels;
};

KERNEL best(Best p) {
    wait_for_input();
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= p.pixels) return;
    const float* pixel = p.answer + (u64)i * p.channels;
    if (p.is_labels) {
        // A comparison with what is no number is false.
        bool is_byte = pixel[0] >= 0 && pixel[0] <= 255 && (float)(u8)pixel[0] == pixel[0];
        p.best[i] = is_byte ? (u8)pixel[0] : 255;
        return;
    }
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

// Where an output's row or column lies in the answer; `first` is negative where the network saw nothing.
struct Place {
    int first, next;
    float weight;
};

enum { DEPTH_LOG = 0, DEPTH_METRES = 1, DEPTH_INVERSE = 2 };

// Labels and metres at the output's size, each where it is wanted. One thread four pixels of a row; the blocks of a row,
// then those of the next one.
struct Outputs {
    const float* answer;  // [answer_height][answer_width][channels]
    const u8* best;  // [answer_height][answer_width]
    const Place* columns;
    const Place* rows;
    u8* labels;     // [height][width], or null
    float* depth;   // [height][width], or null
    int answer_width, channels, scores, depth_channel, code;
    int is_labels;  // `best` came as labels: there is nothing between two of them
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
    int across = 4 * (int)blockDim.x, blocks = (p.width + across - 1) / across;
    int y = (int)blockIdx.x / blocks, start = (int)blockIdx.x % blocks * across + (int)threadIdx.x * 4;
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
            if (p.is_labels) {
                int y_nearest = row.weight < 0.5f ? row.first : row.next;
                int x_nearest = column.weight < 0.5f ? column.first : column.next;
                best = p.best[y_nearest * p.answer_width + x_nearest];
            } else if (p.best[p01] != best || p.best[p10] != best || p.best[p11] != best) {
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
