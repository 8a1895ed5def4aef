// What comes before and after a network, whoever computes it: a picture's bytes -> its input, its answer -> labels and
// metres.

// ---- before the network ---------------------------------------------------------------------------------------------

// INPUT_HALF: half precision, [height][width][4], the fourth is 0. The others are single precision, [height][width][3];
// of INPUT_BYTES the numbers are whole, 0 to 255.
enum { INPUT_HALF = 0, INPUT_FLOAT = 1, INPUT_BYTES = 2 };

// Bytes of a picture -> the network's input: resampled by tables of weights, normalised. One thread a pixel of the
// input.
struct Prepare {
    const u8* bytes;       // rows of `step` bytes, from the first row that is there
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

// `Pixels(source, first row, first column).at(row, column, v)` puts the bytes of the picture's pixel at (first row + row, first
// column + column) into `v`, in the input's order of colours.
template <typename Pixels, typename Source>
DEVICE void prepare_from(const Source& source, const Prepare& p) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= p.width * p.height) return;
    int x = i % p.width - p.to_x, y = i / p.width - p.to_y;
    float v[3] = {p.padding[0], p.padding[1], p.padding[2]};
    if (x >= 0 && x < p.to_width && y >= 0 && y < p.to_height) {
        Pixels pixels(source, p.rows[y], p.columns[x]);
        const float* wy = p.row_weights + y * p.row_taps;
        const float* wx = p.column_weights + x * p.column_taps;
        float sum[3] = {0, 0, 0};
        for (int j = 0; j < p.column_taps; j++) {
            // In the order of the processor's resampler: pairs of rows first, then columns.
            float column[3] = {0, 0, 0};
            for (int k = 0; k < p.row_taps; k += 2) {
                u8 a[3], b[3];
                pixels.at(k, j, a);
                float wa = wy[k];
                if (k + 1 < p.row_taps) {
                    pixels.at(k + 1, j, b);
                    float wb = wy[k + 1];
#pragma unroll
                    for (int c = 0; c < 3; c++) column[c] += MUL(wa, a[c]) + MUL(wb, b[c]);
                } else {
#pragma unroll
                    for (int c = 0; c < 3; c++) column[c] += MUL(wa, a[c]);
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

// Pixels that lie in memory as they are.
struct Direct {
    const Prepare& p;
    const u8* first;

    DEVICE_MEMBER Direct(const Prepare& p, int row, int column)
        : p(p), first(p.bytes + (u64)row * p.step + (u64)column * p.pixel) {}

    DEVICE_MEMBER void at(int row, int column, u8 v[3]) const {
        const u8* pixel = first + (u64)row * p.step + column * p.pixel;
        v[0] = pixel[p.offset0];
        v[1] = pixel[p.offset1];
        v[2] = pixel[p.offset2];
    }
};

KERNEL prepare(Prepare p) {
    wait_for_input();
    prepare_from<Direct>(p, p);
}

enum { LAYOUT_WORDS = 0, LAYOUT_BAYER = 1, LAYOUT_PACKED = 2, LAYOUT_NV12 = 3 };

// A picture of another encoding, whose pixels are made as they are needed, to the bit as `frame/convert.rs` makes them. Its
// whole rows are there, as many beside those that are read as these need.
struct PrepareConverted {
    // `bytes`: of row `top`; `step`: of a row; `pixel`, of 16-bit channels: bytes of one; `offset0` and so on: channels of red,
    // green and blue in the pixel. Columns and rows are from the corner of the rectangle that is read.
    Prepare p;
    u64 colors;            // NV12: where the first row of colours is, in bytes
    int layout;
    int left, above;       // the rectangle's corner
    int top;               // the first row that is there
    int width, height;     // the picture's size
    int is_wide, is_big;   // 16 bits; high byte first
    int red_column, red_row;  // Bayer: 0 or 1
    int luma;              // packed 4:2:2: the first pixel's byte of its pair
    int is_bgr;            // the input's order
};

struct Converted {
    const PrepareConverted& s;
    int y, x;

    DEVICE_MEMBER Converted(const PrepareConverted& s, int row, int column) : s(s), y(row + s.above), x(column + s.left) {}

    // A channel or a mosaic's value.
    DEVICE_MEMBER int value(const u8* at) const {
        if (!s.is_wide) return at[0];
        return s.is_big ? at[0] << 8 | at[1] : at[1] << 8 | at[0];
    }

    // 16 bits are scaled by 255/65535 and rounded.
    DEVICE_MEMBER int eight_bit(int v) const { return s.is_wide ? (int)(((u32)v * 255 + 32895) >> 16) : v; }

    DEVICE_MEMBER const u8* line(int y) const { return s.p.bytes + (u64)(y - s.top) * s.p.step; }

    DEVICE_MEMBER int mosaic(int y, int x) const { return value(line(y) + (s.is_wide ? 2 * x : x)); }

    DEVICE_MEMBER static int clamp(int v, int least, int most) { return v < least ? least : v > most ? most : v; }

    // Bilinear; the picture's border repeats its neighbours.
    DEVICE_MEMBER void bayer(int y, int x, int v[3]) const {
        y = clamp(y, 1, s.height - 2);
        x = clamp(x, 1, s.width - 2);
        bool is_red_row = y % 2 == s.red_row, is_red_column = x % 2 == s.red_column;
        int here = mosaic(y, x), left = mosaic(y, x - 1), right = mosaic(y, x + 1);
        int up = mosaic(y - 1, x), down = mosaic(y + 1, x);
        if (is_red_row == is_red_column) {
            // Red's place or blue's: the other of the two is diagonally beside it.
            int corners = mosaic(y - 1, x - 1) + mosaic(y - 1, x + 1) + mosaic(y + 1, x - 1) + mosaic(y + 1, x + 1);
            int other = (corners + 2) >> 2;
            v[0] = is_red_row ? here : other;
            v[1] = (up + down + left + right + 2) >> 2;
            v[2] = is_red_row ? other : here;
        } else {
            int across = (left + right + 1) >> 1, along = (up + down + 1) >> 1;
            v[0] = is_red_row ? across : along;
            v[1] = here;
            v[2] = is_red_row ? along : across;
        }
        for (int c = 0; c < 3; c++) v[c] = eight_bit(v[c]);
    }

    // BT.601 in limited range, in fixed point with 20 bits.
    DEVICE_MEMBER static void yuv(int luma, int u, int w, int v[3]) {
        const int half = 1 << 19;
        luma = (luma < 16 ? 0 : luma - 16) * 1220542;
        u -= 128;
        w -= 128;
        v[0] = clamp((luma + half + 1673527 * w) >> 20, 0, 255);
        v[1] = clamp((luma + half - 852492 * w - 409993 * u) >> 20, 0, 255);
        v[2] = clamp((luma + half + 2116026 * u) >> 20, 0, 255);
    }

    DEVICE_MEMBER void at(int row, int column, u8 out[3]) const {
        int y = this->y + row, x = this->x + column;
        int v[3];
        if (s.layout == LAYOUT_BAYER) {
            bayer(y, x, v);
        } else if (s.layout == LAYOUT_PACKED) {
            const u8* four = line(y) + 4 * (x / 2);
            yuv(four[s.luma + 2 * (x % 2)], four[1 - s.luma], four[3 - s.luma], v);
        } else if (s.layout == LAYOUT_NV12) {
            const u8* two = s.p.bytes + s.colors + (u64)(y / 2 - s.top / 2) * s.p.step + 2 * (x / 2);
            yuv(line(y)[x], two[0], two[1], v);
        } else {
            const u8* pixel = line(y) + (u64)x * s.p.pixel;
            v[0] = eight_bit(value(pixel + 2 * s.p.offset0));
            v[1] = eight_bit(value(pixel + 2 * s.p.offset1));
            v[2] = eight_bit(value(pixel + 2 * s.p.offset2));
        }
        // No index that is known late: it would put the three into memory.
        out[0] = (u8)(s.is_bgr ? v[2] : v[0]);
        out[1] = (u8)v[1];
        out[2] = (u8)(s.is_bgr ? v[0] : v[2]);
    }
};

KERNEL prepare_converted(PrepareConverted s) {
    wait_for_input();
    prepare_from<Converted>(s, s.p);
}

// ---- after the network ------------------------------------------------------------------------------------------------

// The class of each pixel of an answer that did not come with it: the channel with the greatest score, the first among
// equals, 255 where no score is a number; or the label that the answer has, 255 where it is none. One thread a pixel.
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
    int best = 255;
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
                best = 255;
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
