/* Convolutions of 2 x 2 and 2 x 3 taps with about half the products (see winograd.py).

   The outputs of a tile are found at once by Winograd's algorithm (Lavin and Gray 2016, section
   4): 2 x 4 of them by F(2, 2) down and F(4, 3) across, or 2 x 2 by F(2, 2) both ways. Each axis
   has its points, 3 of F(2, 2) and 6 of F(4, 3), a tile those of both axes:

       V = B' x B      of the inputs that a tile reads, for each channel
       U = G w G'      of the weights, for each pair of channels
       M = sum over inputs of V U, one matrix product a point
       y = A' M A

   and backward dU = V (A dy A'), dw = G' dU G. The matrices of F(2, 2) are those of the points 0, 1
   and infinity, of F(4, 3) also -1, 2 and -2. By F(2, 2) an output is a sum of nothing but the
   inputs that its taps read. By F(4, 3) it is only up to rounding: the others cancel out.

   A block of tiles at a time goes through all steps in one thread's memory, which fits the cache.
   There, numbers lie as the products read them: LANES channels side by side, then tiles. */

#include <string.h>

#include "native.h"

/* Tiles and inputs with two registers each, which leave room for what they multiply. */
#ifdef __AVX512F__
#define TILES_AT_ONCE 12
#define INPUTS_AT_ONCE 12
#else
#define TILES_AT_ONCE 6
#define INPUTS_AT_ONCE 6
#endif
#define BLOCK 48 /* tiles; a multiple of TILES_AT_ONCE */
#define SKEW 16 /* floats: else the points of a tile would fall on the same lines of the cache */
#define DOWN 3
#define MAX_ACROSS 6
#define ACROSS(taps) ((taps) == 3 ? 6 : 3)
#define WIDTH(taps) ((taps) == 3 ? 4 : 2)
#define UNROLL _Pragma("GCC unroll 16")

typedef struct {
    long rows, cols; /* of tiles, that cover an image */
} grid;

/* The first output of a tile. */
typedef struct {
    long image, row, col;
} corner;

ALWAYS corner corner_of(long tile, grid tiles, int taps) {
    long size = tiles.rows * tiles.cols, within = tile % size;
    return (corner){tile / size, 2 * (within / tiles.cols), WIDTH(taps) * (within % tiles.cols)};
}

/* Where the channels from LANES * part of a tile begin in a block's matrix of one point. */
ALWAYS long place(long part, long tile) { return (part * BLOCK + tile) * LANES; }

/* Floats from a point's matrix in a block to the next one's. */
ALWAYS long point_size(long channels) { return BLOCK * channels + SKEW; }

/* 0 outside of the image. */
ALWAYS lane channels_at(const images *x, long image, long row, long col, long first) {
    if (row < 0 || row >= x->rows || col < 0 || col >= x->cols) return (lane){0};
    return load(pixel(x, image, row, col) + first);
}

/* B' across, of the inputs of a row of a tile. */
ALWAYS void transform_inputs(const lane *d, lane *v, int taps) {
    if (taps == 2) {
        v[0] = d[0] - d[1];
        v[1] = d[1];
        v[2] = d[1] - d[2];
        return;
    }
    lane a = d[4] - 4 * d[2], b = d[3] - 4 * d[1], c = d[4] - d[2], e = 2 * (d[3] - d[1]);
    v[0] = 4 * (d[0] - d[2]) + c;
    v[1] = a + b;
    v[2] = a - b;
    v[3] = c + e;
    v[4] = c - e;
    v[5] = d[5] - d[3] - 2 * e;
}

/* A' across, to a row of a tile. */
ALWAYS void transform_outputs(const lane *m, lane *y, int taps) {
    if (taps == 2) {
        y[0] = m[0] + m[1];
        y[1] = m[1] - m[2];
        return;
    }
    lane a = m[1] + m[2], b = m[1] - m[2], c = m[3] + m[4], e = m[3] - m[4];
    y[0] = m[0] + a + c;
    y[1] = b + 2 * e;
    y[2] = a + 4 * c;
    y[3] = b + 8 * e + m[5];
}

/* A across, of the gradients of a row of a tile. */
ALWAYS void spread_gradients(const lane *y, lane *m, int taps) {
    if (taps == 2) {
        m[0] = y[0];
        m[1] = y[0] + y[1];
        m[2] = -y[1];
        return;
    }
    lane even = y[0] + y[2], odd = y[1] + y[3], a = y[0] + 4 * y[2], b = 2 * y[1] + 8 * y[3];
    m[0] = y[0];
    m[1] = even + odd;
    m[2] = even - odd;
    m[3] = a + b;
    m[4] = a - b;
    m[5] = y[3];
}

/* G across, of one row of the kernel. */
ALWAYS void transform_taps(const lane *w, lane *u, int taps) {
    if (taps == 2) {
        u[0] = w[0];
        u[1] = w[0] + w[1];
        u[2] = w[1];
        return;
    }
    lane a = w[0] + w[2], b = w[0] + 4 * w[2];
    u[0] = w[0] / 4;
    u[1] = (-a - w[1]) / 6;
    u[2] = (-a + w[1]) / 6;
    u[3] = (b + 2 * w[1]) / 24;
    u[4] = (b - 2 * w[1]) / 24;
    u[5] = w[2];
}

/* G' across, of the gradients of a row of points. */
ALWAYS void gather_taps(const lane *u, lane *w, int taps) {
    if (taps == 2) {
        w[0] = u[0] + u[1];
        w[1] = u[1] + u[2];
        return;
    }
    lane a = (u[1] + u[2]) / 6, b = (u[3] + u[4]) / 24;
    w[0] = u[0] / 4 - a + b;
    w[1] = (u[2] - u[1]) / 6 + (u[3] - u[4]) / 12;
    w[2] = 4 * b - a + u[5];
}

/* Into v [points][channels / LANES][BLOCK][LANES]. */
ALWAYS void read_inputs(const images *x, long first_row, long first_col, grid tiles, long first,
                        long count, float *v, int taps) {
    int across = ACROSS(taps);
    long size = point_size(x->channels);
    for (long t = 0; t < count; t++) {
        corner at = corner_of(first + t, tiles, taps);
        long row = at.row + first_row, col = at.col + first_col;
        for (long part = 0; part < x->channels / LANES; part++) {
            float *to = v + place(part, t);
            lane points[DOWN][MAX_ACROSS];
            for (int r = 0; r < DOWN; r++) {
                lane d[MAX_ACROSS];
                for (int c = 0; c < WIDTH(taps) + taps - 1; c++)
                    d[c] = channels_at(x, at.image, row + r, col + c, part * LANES);
                transform_inputs(d, points[r], taps);
            }
            for (int k = 0; k < across; k++) {
                store(to + k * size, points[0][k] - points[1][k]);
                store(to + (across + k) * size, points[1][k]);
                store(to + (2 * across + k) * size, points[1][k] - points[2][k]);
            }
        }
    }
}

/* From m, which lies as v does. */
ALWAYS void write_outputs(const float *m, const float *bias, const images *y, grid tiles,
                          long first, long count, int taps) {
    int across = ACROSS(taps);
    long size = point_size(y->channels);
    for (long t = 0; t < count; t++) {
        corner at = corner_of(first + t, tiles, taps);
        for (long part = 0; part < y->channels / LANES; part++) {
            const float *from = m + place(part, t);
            lane points[2][MAX_ACROSS], shift = {0};
            if (bias) shift = load(bias + part * LANES);
            for (int k = 0; k < across; k++) {
                lane middle = load(from + (across + k) * size);
                points[0][k] = load(from + k * size) + middle;
                points[1][k] = middle - load(from + (2 * across + k) * size);
            }
            for (int r = 0; r < 2 && at.row + r < y->rows; r++) {
                lane out[4];
                transform_outputs(points[r], out, taps);
                float *to = pixel(y, at.image, at.row + r, at.col) + part * LANES;
                for (int c = 0; c < WIDTH(taps) && at.col + c < y->cols; c++)
                    store(to + c * y->col_stride, out[c] + shift);
            }
        }
    }
}

/* A dy A' into m, which lies as v does. */
ALWAYS void read_gradients(const images *y, grid tiles, long first, long count, float *m,
                           int taps) {
    int across = ACROSS(taps);
    long size = point_size(y->channels);
    for (long t = 0; t < count; t++) {
        corner at = corner_of(first + t, tiles, taps);
        for (long part = 0; part < y->channels / LANES; part++) {
            float *to = m + place(part, t);
            lane points[2][MAX_ACROSS];
            for (int r = 0; r < 2; r++) {
                lane d[4];
                for (int c = 0; c < WIDTH(taps); c++)
                    d[c] = channels_at(y, at.image, at.row + r, at.col + c, part * LANES);
                spread_gradients(d, points[r], taps);
            }
            for (int k = 0; k < across; k++) {
                store(to + k * size, points[0][k]);
                store(to + (across + k) * size, points[0][k] + points[1][k]);
                store(to + (2 * across + k) * size, -points[1][k]);
            }
        }
    }
}

/* m[tile][output] = sum of v[tile][input] u[input][output] at one point. */
ALWAYS void multiply(const float *restrict v, const float *restrict u, float *restrict m,
                     long inputs, long outputs, long count) {
    for (long out = 0; out < outputs / (2 * LANES); out++, u += 2 * LANES * inputs)
        for (long t = 0; t < count; t += TILES_AT_ONCE) {
            lane left[TILES_AT_ONCE], right[TILES_AT_ONCE];
            UNROLL for (int r = 0; r < TILES_AT_ONCE; r++) left[r] = right[r] = (lane){0};
            const float *weights = u;
            for (long part = 0; part < inputs / LANES; part++) {
                const float *from = v + place(part, t);
                for (int c = 0; c < LANES; c++, weights += 2 * LANES) {
                    lane a = load(weights), b = load(weights + LANES);
                    UNROLL for (int r = 0; r < TILES_AT_ONCE; r++) {
                        left[r] += from[r * LANES + c] * a;
                        right[r] += from[r * LANES + c] * b;
                    }
                }
            }
            UNROLL for (int r = 0; r < TILES_AT_ONCE; r++) {
                store(m + place(2 * out, t + r), left[r]);
                store(m + place(2 * out + 1, t + r), right[r]);
            }
        }
}

/* `rows` inputs from `in` on of one 2 LANES of outputs, see multiply_gradients. */
ALWAYS void multiply_rows(const float *v, const float *m, float *du, long in, long count,
                          int is_first, int rows) {
    lane left[INPUTS_AT_ONCE], right[INPUTS_AT_ONCE];
    const float *from[INPUTS_AT_ONCE];
    UNROLL for (int r = 0; r < rows; r++) {
        left[r] = right[r] = (lane){0};
        from[r] = v + place((in + r) / LANES, 0) + (in + r) % LANES;
    }
    for (long t = 0; t < count * LANES; t += LANES) {
        lane a = load(m + t), b = load(m + BLOCK * LANES + t);
        UNROLL for (int r = 0; r < rows; r++) {
            left[r] += from[r][t] * a;
            right[r] += from[r][t] * b;
        }
    }
    UNROLL for (int r = 0; r < rows; r++, du += 2 * LANES) {
        store(du, is_first ? left[r] : load(du) + left[r]);
        store(du + LANES, is_first ? right[r] : load(du + LANES) + right[r]);
    }
}

/* du[input][output] += sum of v[tile][input] m[tile][output] at one point; = if is_first. */
ALWAYS void multiply_gradients(const float *restrict v, const float *restrict m,
                               float *restrict du, long inputs, long outputs, long count,
                               int is_first) {
    for (long out = 0; out < outputs / (2 * LANES); out++) {
        const float *with = m + place(2 * out, 0);
        float *to = du + out * inputs * 2 * LANES;
        long in = 0;
        for (; in + INPUTS_AT_ONCE <= inputs; in += INPUTS_AT_ONCE)
            multiply_rows(v, with, to + in * 2 * LANES, in, count, is_first, INPUTS_AT_ONCE);
        for (; in < inputs; in += 2)
            multiply_rows(v, with, to + in * 2 * LANES, in, count, is_first, 2);
    }
}

/* U [points][outputs / 2 LANES][inputs][2 LANES] of the weights w [outputs][inputs][2][taps]. */
ALWAYS void transform_weights(const float *w, const long *strides, float *u, long inputs,
                              long outputs, int taps, int threads) {
    int across = ACROSS(taps);
#pragma omp parallel for num_threads(threads)
    for (long group = 0; group < outputs / LANES; group++)
        for (long in = 0; in < inputs; in++) {
            const float *from = w + group * LANES * strides[0] + in * strides[1];
            lane points[2][MAX_ACROSS];
            for (int r = 0; r < 2; r++) {
                lane row[3];
                for (int c = 0; c < taps; c++)
                    for (int l = 0; l < LANES; l++)
                        row[c][l] = from[l * strides[0] + r * strides[2] + c * strides[3]];
                transform_taps(row, points[r], taps);
            }
            float *to = u + ((group / 2 * inputs + in) * 2 + group % 2) * LANES;
            for (int k = 0; k < across; k++) {
                store(to + k * inputs * outputs, points[0][k]);
                store(to + (across + k) * inputs * outputs, points[0][k] + points[1][k]);
                store(to + (2 * across + k) * inputs * outputs, points[1][k]);
            }
        }
}

ALWAYS void convolve(const images *x, const images *y, long num_images, long first_row,
                     long first_col, const float *w, const long *strides, const float *bias,
                     float *u, float *scratch, int taps, int threads) {
    long inputs = x->channels, outputs = y->channels, points = DOWN * ACROSS(taps);
    grid tiles = {(y->rows + 1) / 2, (y->cols + WIDTH(taps) - 1) / WIDTH(taps)};
    long total = num_images * tiles.rows * tiles.cols;
    transform_weights(w, strides, u, inputs, outputs, taps, threads);
#pragma omp parallel for num_threads(threads)
    for (int thread = 0; thread < threads; thread++) {
        float *v = scratch + thread * points * (point_size(inputs) + point_size(outputs));
        float *m = v + points * point_size(inputs);
        long end = total * (thread + 1) / threads;
        for (long first = total * thread / threads; first < end; first += BLOCK) {
            long count = end - first < BLOCK ? end - first : BLOCK;
            read_inputs(x, first_row, first_col, tiles, first, count, v, taps);
            for (long k = 0; k < points; k++)
                multiply(v + k * point_size(inputs), u + k * inputs * outputs,
                         m + k * point_size(outputs), inputs, outputs, count);
            write_outputs(m, bias, y, tiles, first, count, taps);
        }
    }
}

/* dw [outputs][inputs][2][taps] of the sums du of all threads, each as U. */
ALWAYS void gather_weights(const float *du, float *dw, long inputs, long outputs, int taps,
                           int threads) {
    int across = ACROSS(taps);
    long size = inputs * outputs, points = DOWN * across;
#pragma omp parallel for num_threads(threads)
    for (long group = 0; group < outputs / LANES; group++)
        for (long in = 0; in < inputs; in++) {
            const float *from = du + ((group / 2 * inputs + in) * 2 + group % 2) * LANES;
            float *to = dw + (group * LANES * inputs + in) * 2 * taps;
            lane sums[DOWN][MAX_ACROSS];
            for (int r = 0; r < DOWN; r++)
                for (int k = 0; k < across; k++) {
                    sums[r][k] = load(from + (r * across + k) * size);
                    for (int thread = 1; thread < threads; thread++)
                        sums[r][k] += load(from + (thread * points + r * across + k) * size);
                }
            for (int r = 0; r < 2; r++) {
                lane row[MAX_ACROSS], found[3];
                for (int k = 0; k < across; k++) row[k] = sums[r][k] + sums[r + 1][k];
                gather_taps(row, found, taps);
                for (int l = 0; l < LANES; l++)
                    for (int c = 0; c < taps; c++)
                        to[(l * inputs * 2 + r) * taps + c] = found[c][l];
            }
        }
}

ALWAYS void find_weight_gradient(const images *x, const images *y, long num_images, float *dw,
                                 float *du, float *scratch, int taps, int threads) {
    long inputs = x->channels, outputs = y->channels, points = DOWN * ACROSS(taps);
    grid tiles = {(y->rows + 1) / 2, (y->cols + WIDTH(taps) - 1) / WIDTH(taps)};
    long total = num_images * tiles.rows * tiles.cols;
#pragma omp parallel for num_threads(threads)
    for (int thread = 0; thread < threads; thread++) {
        float *v = scratch + thread * points * (point_size(inputs) + point_size(outputs));
        float *m = v + points * point_size(inputs);
        float *sums = du + thread * points * inputs * outputs;
        long begin = total * thread / threads, end = total * (thread + 1) / threads;
        if (begin == end) memset(sums, 0, points * inputs * outputs * sizeof(float));
        for (long first = begin; first < end; first += BLOCK) {
            long count = end - first < BLOCK ? end - first : BLOCK;
            read_inputs(x, 0, 0, tiles, first, count, v, taps);
            read_gradients(y, tiles, first, count, m, taps);
            for (long k = 0; k < points; k++)
                multiply_gradients(v + k * point_size(inputs), m + k * point_size(outputs),
                                   sums + k * inputs * outputs, inputs, outputs, count,
                                   first == begin);
        }
    }
    gather_weights(du, dw, inputs, outputs, taps, threads);
}

/* How many channels are worked on side by side; channels must be multiples of twice that. */
int winograd_lanes(void) { return LANES; }

/* Floats of scratch memory for each thread. */
long winograd_scratch_size(long inputs, long outputs, int taps) {
    return DOWN * ACROSS(taps) * (point_size(inputs) + point_size(outputs));
}

/* Floats of u, and of du for each thread. */
long winograd_points_size(long inputs, long outputs, int taps) {
    return DOWN * ACROSS(taps) * inputs * outputs;
}

/* y = x * w + bias (if not 0), where output (i, j) reads x from (i + first_row, j + first_col).
   w is [outputs][inputs][2][taps], or, if is_flipped, [inputs][outputs][2][taps] with its taps
   in reverse, as the gradient of an input reads it. */
void winograd_convolve(const images *x, const images *y, long num_images, long first_row,
                       long first_col, const float *w, int is_flipped, const float *bias, float *u,
                       float *scratch, int taps, int threads) {
    long inputs = x->channels, outputs = y->channels, size = 2 * taps;
    long forward[4] = {inputs * size, size, taps, 1};
    long backward[4] = {size, outputs * size, -taps, -1};
    const long *strides = is_flipped ? backward : forward;
    if (is_flipped) w += size - 1;
    if (taps == 3)
        convolve(x, y, num_images, first_row, first_col, w, strides, bias, u, scratch, 3, threads);
    else
        convolve(x, y, num_images, first_row, first_col, w, strides, bias, u, scratch, 2, threads);
}

/* dw [outputs][inputs][2][taps] of y's gradient, where output (i, j) reads x from (i, j). */
void winograd_weight_gradient(const images *x, const images *y, long num_images, float *dw,
                              float *du, float *scratch, int taps, int threads) {
    if (taps == 3)
        find_weight_gradient(x, y, num_images, dw, du, scratch, 3, threads);
    else
        find_weight_gradient(x, y, num_images, dw, du, scratch, 2, threads);
}
