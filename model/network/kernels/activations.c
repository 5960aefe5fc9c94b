/* The activations of residual blocks and their gradients, each in one pass (see activations.py).

   Numbers are float32, or bfloat16 if is_half; what is between them is float32 either way.
   `keep`, dropout's factors, may be 0. */

#include "native.h"

typedef int ints __attribute__((vector_size(4 * LANES)));
typedef unsigned uints __attribute__((vector_size(4 * LANES)));
typedef unsigned short halves __attribute__((vector_size(2 * LANES), aligned(2)));

ALWAYS lane get(const images *x, long at, int is_half) {
    if (!is_half) return load((const float *)x->data + at);
    halves bits = *(const halves *)((const unsigned short *)x->data + at);
    return (lane)(__builtin_convertvector(bits, uints) << 16);
}

/* To the nearest number, of two the even one. */
ALWAYS void put(const images *x, long at, lane value, int is_half) {
    if (!is_half) {
        store((float *)x->data + at, value);
        return;
    }
    uints bits = (uints)value, nan = (uints)(value != value);
    bits = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    bits = (nan & 0x7fc0) | (~nan & bits);
    *(halves *)((unsigned short *)x->data + at) = __builtin_convertvector(bits, halves);
}

ALWAYS lane choose(ints where, lane a, lane b) {
    return (lane)((where & (ints)a) | (~where & (ints)b));
}

/* exp(x) of x <= 0 within two units in the last place: 2^n times Cephes' polynomial. */
ALWAYS lane exp_of_negative(lane x) {
    const float log2_e = 1.44269504f, ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;
    x = choose(x < -87.0f, (lane){0} - 87.0f, x);
    ints n = __builtin_convertvector(x * log2_e - 0.5f, ints);
    lane count = __builtin_convertvector(n, lane), r = x - count * ln2_high - count * ln2_low;
    lane p = 1.9875691500e-4f * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    return p * (lane)((n + 127) << 23);
}

ALWAYS lane exp_of_minus_size(lane x) { return exp_of_negative(choose(x < 0, x, -x)); }

ALWAYS lane sigmoid(lane x) {
    lane e = exp_of_minus_size(x), upper = 1.0f / (1.0f + e);
    return choose(x < 0, e * upper, upper);
}

#define EACH_PIXEL(x)                                             \
    _Pragma("omp parallel for collapse(2) num_threads(threads)")  \
    for (long image = 0; image < num_images; image++)             \
        for (long row = 0; row < (x)->rows; row++)                \
            for (long col = 0; col < (x)->cols; col++)
#define PIXEL_OF(x) ((x) ? pixel_offset(x, image, row, col) : 0)

ALWAYS void concat_elu_of(const images *x, const images *keep, const images *y, long num_images,
                          int is_half, int threads) {
    long channels = x->channels;
    EACH_PIXEL(x) {
        long from = PIXEL_OF(x), kept = PIXEL_OF(keep), to = PIXEL_OF(y);
        for (long c = 0; c < channels; c += LANES) {
            lane value = get(x, from + c, is_half), e = exp_of_minus_size(value) - 1.0f;
            lane plus = choose(value > 0, value, e), minus = choose(value < 0, -value, e);
            if (keep) {
                plus *= get(keep, kept + c, is_half);
                minus *= get(keep, kept + channels + c, is_half);
            }
            put(y, to + c, plus, is_half);
            put(y, to + channels + c, minus, is_half);
        }
    }
}

ALWAYS void concat_elu_gradient_of(const images *dy, const images *x, const images *result,
                                   const images *keep, const images *dx, long num_images,
                                   int is_half, int threads) {
    long channels = dx->channels;
    const lane one = (lane){0} + 1.0f;
    EACH_PIXEL(dx) {
        long from = PIXEL_OF(dy), kept = PIXEL_OF(keep), to = PIXEL_OF(dx);
        long at = x ? PIXEL_OF(x) : PIXEL_OF(result);
        for (long c = 0; c < channels; c += LANES) {
            lane up, down;
            if (x) {
                lane value = get(x, at + c, is_half), slope = exp_of_minus_size(value);
                up = choose(value > 0, one, slope);
                down = choose(value < 0, one, slope);
            } else {
                lane value = get(result, at + c, is_half);
                lane other = get(result, at + channels + c, is_half);
                up = choose(value > 0, one, value + 1.0f);
                down = choose(other > 0, one, other + 1.0f);
            }
            if (keep) {
                up *= get(keep, kept + c, is_half);
                down *= get(keep, kept + channels + c, is_half);
            }
            up *= get(dy, from + c, is_half);
            down *= get(dy, from + channels + c, is_half);
            put(dx, to + c, up - down, is_half);
        }
    }
}

ALWAYS void gated_residual_of(const images *x, const images *gated, const images *y,
                              long num_images, int is_half, int threads) {
    long channels = x->channels;
    EACH_PIXEL(x) {
        long from = PIXEL_OF(x), at = PIXEL_OF(gated), to = PIXEL_OF(y);
        for (long c = 0; c < channels; c += LANES) {
            lane a = get(gated, at + c, is_half), b = get(gated, at + channels + c, is_half);
            put(y, to + c, get(x, from + c, is_half) + a * sigmoid(b), is_half);
        }
    }
}

ALWAYS void gated_gradient_of(const images *dy, const images *gated, const images *d,
                              long num_images, int is_half, int threads) {
    long channels = dy->channels;
    EACH_PIXEL(dy) {
        long from = PIXEL_OF(dy), at = PIXEL_OF(gated), to = PIXEL_OF(d);
        for (long c = 0; c < channels; c += LANES) {
            lane a = get(gated, at + c, is_half);
            lane gradient = get(dy, from + c, is_half);
            lane gate = sigmoid(get(gated, at + channels + c, is_half));
            put(d, to + c, gradient * gate, is_half);
            put(d, to + channels + c, gradient * a * gate * (1.0f - gate), is_half);
        }
    }
}

/* A loop of its own for each kind of numbers. */
#define FOR_KIND(function, ...)                \
    if (is_half)                               \
        function(__VA_ARGS__, 1, threads);     \
    else                                       \
        function(__VA_ARGS__, 0, threads)

/* y = concat(elu(x), elu(-x)) keep */
void concat_elu(const images *x, const images *keep, const images *y, long num_images,
                int is_half, int threads) {
    FOR_KIND(concat_elu_of, x, keep, y, num_images);
}

/* dx of dy. Slopes are made from x, or, if it is 0, read off the result, without `keep`. */
void concat_elu_gradient(const images *dy, const images *x, const images *result,
                         const images *keep, const images *dx, long num_images, int is_half,
                         int threads) {
    FOR_KIND(concat_elu_gradient_of, dy, x, result, keep, dx, num_images);
}

/* y = x + a sigmoid(b), where `gated` is a and b */
void gated_residual(const images *x, const images *gated, const images *y, long num_images,
                    int is_half, int threads) {
    FOR_KIND(gated_residual_of, x, gated, y, num_images);
}

/* da and db of dy */
void gated_gradient(const images *dy, const images *gated, const images *d, long num_images,
                    int is_half, int threads) {
    FOR_KIND(gated_gradient_of, dy, gated, d, num_images);
}
