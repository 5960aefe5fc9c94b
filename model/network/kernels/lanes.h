/* Vectors of numbers, one a drawing, and functions of them with equal bits at any width.

Compiled without contraction: what is fused is written as `fused`. Nothing comes from a mathematical
library, whose last bits differ. The polynomials are Taylor's, but for the logarithm of float32. */

#include <stdint.h>

#define ALWAYS static inline __attribute__((always_inline))

#if defined(__AVX512F__)
#include <immintrin.h>
#define WIDTH 16
#define STRIP 2 /* vectors of drawings in registers */
#elif defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>
#define WIDTH 8
#define STRIP 2
#else
#define WIDTH 4
#define STRIP 2
#endif

typedef float lanes __attribute__((vector_size(4 * WIDTH), aligned(4), may_alias));
typedef int32_t ints __attribute__((vector_size(4 * WIDTH), may_alias));
typedef double wides __attribute__((vector_size(4 * WIDTH), aligned(8), may_alias));
typedef int64_t longs __attribute__((vector_size(4 * WIDTH), may_alias));
#define HALF (WIDTH / 2)
typedef float halves __attribute__((vector_size(2 * WIDTH), aligned(4), may_alias));

#if WIDTH == 16
#define FUSED(a, b, c) _mm512_fmadd_ps((__m512)(a), (__m512)(b), (__m512)(c))
#define DFUSED(a, b, c) _mm512_fmadd_pd((__m512d)(a), (__m512d)(b), (__m512d)(c))
#elif WIDTH == 8
#define FUSED(a, b, c) _mm256_fmadd_ps((__m256)(a), (__m256)(b), (__m256)(c))
#define DFUSED(a, b, c) _mm256_fmadd_pd((__m256d)(a), (__m256d)(b), (__m256d)(c))
#endif

/* a * b + c, rounded once. */
#ifdef FUSED
ALWAYS lanes fused(lanes a, lanes b, lanes c) { return (lanes)FUSED(a, b, c); }
ALWAYS wides dfused(wides a, wides b, wides c) { return (wides)DFUSED(a, b, c); }
#else
ALWAYS lanes fused(lanes a, lanes b, lanes c) {
    for (int i = 0; i < WIDTH; i++) a[i] = __builtin_fmaf(a[i], b[i], c[i]);
    return a;
}
ALWAYS wides dfused(wides a, wides b, wides c) {
    for (int i = 0; i < HALF; i++) a[i] = __builtin_fma(a[i], b[i], c[i]);
    return a;
}
#endif

ALWAYS lanes all(float x) { return x - (lanes){0}; }
ALWAYS wides dall(double x) { return x - (wides){0}; }
ALWAYS lanes load(const float *at) { return *(const lanes *)at; }
ALWAYS void store(float *at, lanes x) { *(lanes *)at = x; }
ALWAYS wides dload(const double *at) { return *(const wides *)at; }
ALWAYS void dstore(double *at, wides x) { *(wides *)at = x; }
ALWAYS wides widened(const float *at) {
    return __builtin_convertvector(*(const halves *)at, wides);
}
ALWAYS lanes pick(ints where, lanes a, lanes b) {
    return (lanes)((where & (ints)a) | (~where & (ints)b));
}
ALWAYS wides dpick(longs where, wides a, wides b) {
    return (wides)((where & (longs)a) | (~where & (longs)b));
}
ALWAYS lanes absolute(lanes x) { return (lanes)((ints)x & 0x7fffffff); }
ALWAYS wides dabsolute(wides x) { return (wides)((longs)x & 0x7fffffffffffffff); }

/* exp(y) = scale (1 + part), with |part| below 0.42; y in [-87, 88]. Relative error 1e-7. */
typedef struct { lanes part, scale; } power;

ALWAYS power raise(lanes y) {
    const float magic = 12582912.0f; /* 1.5 * 2^23: a sum with it is rounded to a whole number */
    y = pick(y < all(-87.0f), all(-87.0f), y);
    y = pick(y > all(88.0f), all(88.0f), y);
    lanes n = fused(y, all(1.44269504088896341f), all(magic)) - magic;
    lanes r = fused(n, all(-0.693359375f), y);
    r = fused(n, all(2.12194440054690583e-4f), r);
    lanes q = all(1.0f / 5040.0f);
    q = fused(q, r, all(1.0f / 720.0f));
    q = fused(q, r, all(1.0f / 120.0f));
    q = fused(q, r, all(1.0f / 24.0f));
    q = fused(q, r, all(1.0f / 6.0f));
    q = fused(q, r, all(0.5f));
    ints bits = (ints)(n + magic) << 23; /* the low bits of the sum are n */
    return (power){fused(q, r * r, r), (lanes)(bits + (127 << 23))};
}

ALWAYS lanes exponential(lanes y) {
    power p = raise(y);
    return fused(p.part, p.scale, p.scale);
}

/* exp(y) - 1 for y <= 0 without cancellation near 0. */
ALWAYS lanes exponential_less_one(lanes y) {
    power p = raise(y);
    return fused(p.part, p.scale, p.scale - 1.0f);
}

/* log(x) of a normal number, after Cephes' logf. Relative error 1e-7. */
ALWAYS lanes logarithm(lanes x) {
    ints bits = (ints)x - 0x3f3504f3; /* sqrt(1/2) */
    ints exponent = bits >> 23;
    lanes m = (lanes)((bits & 0x7fffff) + 0x3f3504f3) - 1.0f;
    lanes e = __builtin_convertvector(exponent, lanes), z = m * m;
    lanes p = all(7.0376836292e-2f);
    p = fused(p, m, all(-1.1514610310e-1f));
    p = fused(p, m, all(1.1676998740e-1f));
    p = fused(p, m, all(-1.2420140846e-1f));
    p = fused(p, m, all(1.4249322787e-1f));
    p = fused(p, m, all(-1.6668057665e-1f));
    p = fused(p, m, all(2.0000714765e-1f));
    p = fused(p, m, all(-2.4999993993e-1f));
    p = fused(p, m, all(3.3333331174e-1f));
    p = p * m * z;
    p = fused(e, all(-2.12194440e-4f), p);
    p = fused(z, all(-0.5f), p);
    return fused(e, all(0.693359375f), m + p);
}

/* exp(y) of float64, y in [-700, 700]. Relative error 1e-15. */
ALWAYS wides dexponential(wides y) {
    const double magic = 6755399441055744.0; /* 1.5 * 2^52 */
    y = dpick(y < dall(-700.0), dall(-700.0), y);
    y = dpick(y > dall(700.0), dall(700.0), y);
    wides n = dfused(y, dall(1.44269504088896340736), dall(magic)) - magic;
    wides r = dfused(n, dall(-6.93147180369123816490e-01), y);
    r = dfused(n, dall(-1.90821492927058770002e-10), r);
    wides q = dall(1.0 / 6227020800.0);
    q = dfused(q, r, dall(1.0 / 479001600.0));
    q = dfused(q, r, dall(1.0 / 39916800.0));
    q = dfused(q, r, dall(1.0 / 3628800.0));
    q = dfused(q, r, dall(1.0 / 362880.0));
    q = dfused(q, r, dall(1.0 / 40320.0));
    q = dfused(q, r, dall(1.0 / 5040.0));
    q = dfused(q, r, dall(1.0 / 720.0));
    q = dfused(q, r, dall(1.0 / 120.0));
    q = dfused(q, r, dall(1.0 / 24.0));
    q = dfused(q, r, dall(1.0 / 6.0));
    q = dfused(q, r, dall(0.5));
    wides part = dfused(q, r * r, r);
    wides scale = (wides)(((longs)(n + magic) << 52) + ((int64_t)1023 << 52));
    return dfused(part, scale, scale);
}

/* log(x) of a normal float64; NaN of NaN and infinity. Relative error 1e-15. */
ALWAYS wides dlogarithm(wides x) {
    const int64_t root = 0x3fe6a09e667f3bcd; /* sqrt(1/2) */
    longs bits = (longs)x - root;
    longs exponent = bits >> 52;
    wides m = (wides)((bits & 0xfffffffffffff) + root) - 1.0;
    wides s = m / (m + 2.0), z = s * s;
    wides p = dall(1.0 / 21.0);
    p = dfused(p, z, dall(1.0 / 19.0));
    p = dfused(p, z, dall(1.0 / 17.0));
    p = dfused(p, z, dall(1.0 / 15.0));
    p = dfused(p, z, dall(1.0 / 13.0));
    p = dfused(p, z, dall(1.0 / 11.0));
    p = dfused(p, z, dall(1.0 / 9.0));
    p = dfused(p, z, dall(1.0 / 7.0));
    p = dfused(p, z, dall(1.0 / 5.0));
    p = dfused(p, z, dall(1.0 / 3.0));
    wides e = __builtin_convertvector(exponent, wides), twice = s + s;
    wides low = dfused(twice * z, p, e * 1.90821492927058770002e-10);
    return dfused(e, dall(6.93147180369123816490e-01), twice + low) + (x - x);
}

/* log(1 + exp(y)) */
ALWAYS wides dsoftplus(wides y) {
    wides e = dexponential(-dabsolute(y));
    /* log(1 + e) loses e's digits where e is small; there the series is exact to float64. */
    wides small = e * dfused(e, dall(-0.5), dall(1.0));
    return dpick(y > dall(0.0), y, dall(0.0)) + dpick(e < dall(1e-8), small, dlogarithm(e + 1.0));
}

