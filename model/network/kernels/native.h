/* What the C of this package shares (see native.py). */

#ifdef __AVX512F__
#define LANES 16
#else
#define LANES 8
#endif
#define ALWAYS static inline __attribute__((always_inline))

typedef float lane __attribute__((vector_size(4 * LANES), aligned(4)));

/* Numbers in the order NHWC, float32 unless said; strides count numbers, channels are adjacent. */
typedef struct {
    void *data;
    long rows, cols, channels;
    long image_stride, row_stride, col_stride;
} images;

ALWAYS lane load(const float *at) { return *(const lane *)at; }
ALWAYS void store(float *at, lane value) { *(lane *)at = value; }

/* How many numbers come before the channels of a pixel. */
ALWAYS long pixel_offset(const images *x, long image, long row, long col) {
    return image * x->image_stride + row * x->row_stride + col * x->col_stride;
}

ALWAYS float *pixel(const images *x, long image, long row, long col) {
    return (float *)x->data + pixel_offset(x, image, row, col);
}
