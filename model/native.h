/* What the C of this package shares (see native.py). */

#ifdef __AVX512F__
#define LANES 16
#else
#define LANES 8
#endif
#define ALWAYS static inline __attribute__((always_inline))

typedef float lane __attribute__((vector_size(4 * LANES), aligned(4)));

/* float32 in the order NHWC; the strides are in numbers, channels are adjacent. */
typedef struct {
    float *data;
    long rows, cols, channels;
    long image_stride, row_stride, col_stride;
} images;

ALWAYS lane load(const float *at) { return *(const lane *)at; }
ALWAYS void store(float *at, lane value) { *(lane *)at = value; }

/* Where the channels of a pixel begin. */
ALWAYS float *pixel(const images *x, long image, long row, long col) {
    return x->data + image * x->image_stride + row * x->row_stride + col * x->col_stride;
}
