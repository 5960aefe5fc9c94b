/* The activations of residual blocks and their gradients, each in one pass (see activations.py).

   `keep`, dropout's factors, may be 0. */

#include "native.h"

typedef int ints __attribute__((vector_size(4 * LANES)));

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

/* y = concat(elu(x), elu(-x)) keep */
void concat_elu(const images *x, const images *keep, const images *y, long num_images,
                int threads) {
    long channels = x->channels;
    EACH_PIXEL(x) {
        const float *from = pixel(x, image, row, col);
        const float *kept = keep ? pixel(keep, image, row, col) : 0;
        float *to = pixel(y, image, row, col);
        for (long c = 0; c < channels; c += LANES) {
            lane value = load(from + c), e = exp_of_minus_size(value) - 1.0f;
            lane plus = choose(value > 0, value, e), minus = choose(value < 0, -value, e);
            if (kept) {
                plus *= load(kept + c);
                minus *= load(kept + channels + c);
            }
            store(to + c, plus);
            store(to + channels + c, minus);
        }
    }
}

/* dx of dy. Slopes are made from x, or, if it is 0, read off the result, without `keep`. */
void concat_elu_gradient(const images *dy, const images *x, const images *result,
                         const images *keep, const images *dx, long num_images, int threads) {
    long channels = dx->channels;
    const lane one = (lane){0} + 1.0f;
    EACH_PIXEL(dx) {
        const float *from = pixel(dy, image, row, col);
        const float *at = pixel(x ? x : result, image, row, col);
        const float *kept = keep ? pixel(keep, image, row, col) : 0;
        float *to = pixel(dx, image, row, col);
        for (long c = 0; c < channels; c += LANES) {
            lane value = load(at + c), up, down;
            if (x) {
                lane slope = exp_of_minus_size(value);
                up = choose(value > 0, one, slope);
                down = choose(value < 0, one, slope);
            } else {
                lane other = load(at + channels + c);
                up = choose(value > 0, one, value + 1.0f);
                down = choose(other > 0, one, other + 1.0f);
            }
            if (kept) {
                up *= load(kept + c);
                down *= load(kept + channels + c);
            }
            store(to + c, load(from + c) * up - load(from + channels + c) * down);
        }
    }
}

/* y = x + a sigmoid(b), where `gated` is a and b */
void gated_residual(const images *x, const images *gated, const images *y, long num_images,
                    int threads) {
    long channels = x->channels;
    EACH_PIXEL(x) {
        const float *from = pixel(x, image, row, col), *a = pixel(gated, image, row, col);
        float *to = pixel(y, image, row, col);
        for (long c = 0; c < channels; c += LANES)
            store(to + c, load(from + c) + load(a + c) * sigmoid(load(a + channels + c)));
    }
}

/* da and db of dy */
void gated_gradient(const images *dy, const images *gated, const images *d, long num_images,
                    int threads) {
    long channels = dy->channels;
    EACH_PIXEL(dy) {
        const float *from = pixel(dy, image, row, col), *a = pixel(gated, image, row, col);
        float *to = pixel(d, image, row, col);
        for (long c = 0; c < channels; c += LANES) {
            lane gradient = load(from + c), gate = sigmoid(load(a + channels + c));
            store(to + c, gradient * gate);
            store(to + channels + c, gradient * load(a + c) * gate * (1.0f - gate));
        }
    }
}
