/* Draws images pixel by pixel, BLOCK drawings side by side (see model/sampling/portable.py).

Numbers of a position are [channel][drawing]. Every operation is on one drawing's numbers alone, and
a sum runs over taps and channels in one order whatever the width of the vectors: with fused
multiply-adds written as such, no other contraction and no function of a mathematical library, the
bits do not depend on the processor, on the other drawings or on the instruction set.
*/

#include "lanes.h"

#define BLOCK 32 /* half as many would leave registers unused, twice as many the cache */
#define MOST_OUTPUTS 6 /* of a product that stays in registers */
#define MOST_TAPS 64
#define MOST_MIXTURES 64

/* A feature: rows in a ring of `slots`, each [column][channel][drawing]. */
typedef struct {
    int64_t offset, channels, columns, slots;
} feature;

/* The first channels of a feature, as an input of a layer. Output (i, j) reads (stride i + row,
stride j + column); of a transposed layer, which has a negative stride, the place (p, q) with
-stride p + row = i, if there is one. */
typedef struct {
    int64_t feature, channels, row, column, stride, is_condition;
} tap;

/* What becomes of a layer's sums: see layer_at. */
enum { ACTIVE, GATED, VALUE, PARAMETERS };

typedef struct {
    int64_t level, first_tap, num_taps, inputs, outputs, weights, bias, kind;
    int64_t source, value, active;
} layer;

typedef struct {
    const feature *features;
    const tap *taps;
    const layer *layers;
    const float *weights;
    const int64_t *vertical, *horizontal; /* layers in the order of evaluation */
    int64_t num_vertical, num_horizontal;
    int64_t num_levels, is_concat, rows, columns, low, high, mixtures;
    int64_t pixels, state_size; /* the feature of pixels; numbers of one pass's memory */
} program;

typedef struct {
    double guidance, temperature;
    const double *uniforms;     /* [row][column][draw][drawing] */
    float *const *codes;        /* by level: [row][column][channel][drawing]; null if none */
    const uint8_t *mask;        /* [row][column][drawing], 1 where a pixel is given; or null */
    uint8_t *images;            /* [row][column][drawing], the given pixels on entry */
    double *nats;               /* [drawing] */
    float *memory;              /* two passes, then the work's */
} job;

ALWAYS float *place_of(const feature *f, float *state, int64_t row, int64_t column) {
    return state + f->offset + ((row % f->slots) * f->columns + column) * f->channels * BLOCK;
}

/* sums[o] = bias[o] + the products of taps and channels, in their order, for `num` outputs. */
ALWAYS void products(int num, const float *const *inputs, const int64_t *channels,
                     const float *const *weights, int taps, const float *bias, float *sums) {
    for (int strip = 0; strip < BLOCK; strip += STRIP * WIDTH) {
        for (int o = 0; o < num; o++)
            for (int s = 0; s < STRIP; s++)
                store(sums + o * BLOCK + strip + s * WIDTH, all(bias[o]));
        for (int t = 0; t < taps; t++) {
            lanes acc[MOST_OUTPUTS][STRIP];
            for (int o = 0; o < num; o++)
                for (int s = 0; s < STRIP; s++) acc[o][s] = all(0.0f);
            const float *x = inputs[t] + strip, *w = weights[t];
            for (int64_t c = 0; c < channels[t]; c++, x += BLOCK, w += num) {
                lanes here[STRIP];
                for (int s = 0; s < STRIP; s++) here[s] = load(x + s * WIDTH);
                for (int o = 0; o < num; o++) {
                    lanes weight = all(w[o]);
                    for (int s = 0; s < STRIP; s++) acc[o][s] = fused(weight, here[s], acc[o][s]);
                }
            }
            for (int o = 0; o < num; o++)
                for (int s = 0; s < STRIP; s++) {
                    float *at = sums + o * BLOCK + strip + s * WIDTH;
                    store(at, load(at) + acc[o][s]);
                }
        }
    }
}

#define PRODUCTS(n) \
    static void products_##n(const float *const *x, const int64_t *c, const float *const *w, \
                             int taps, const float *bias, float *sums) { \
        products(n, x, c, w, taps, bias, sums); \
    }
PRODUCTS(1) PRODUCTS(2) PRODUCTS(3) PRODUCTS(4) PRODUCTS(5) PRODUCTS(6)
static void (*const PRODUCTS_OF[])(const float *const *, const int64_t *, const float *const *, int,
                                   const float *, float *) = {
    0, products_1, products_2, products_3, products_4, products_5, products_6};

/* Weights are packed by groups of outputs: [group][tap][channel][output of the group]. */
static void sum_layer(const program *p, const layer *l, float *state, int64_t i, int64_t j,
                      float *const *codes, float *sums) {
    const float *inputs[MOST_TAPS];
    int64_t channels[MOST_TAPS], before[MOST_TAPS], passed = 0;
    int taps = 0;
    for (int64_t t = 0; t < l->num_taps; t++) {
        const tap *each = &p->taps[l->first_tap + t];
        const feature *f = &p->features[each->feature];
        int64_t row, column, first = passed;
        passed += each->channels;
        if (each->stride >= 0) {
            row = each->stride * i + each->row, column = each->stride * j + each->column;
        } else {
            row = i - each->row, column = j - each->column;
            if (row % each->stride || column % each->stride) continue;
            row /= -each->stride, column /= -each->stride;
        }
        if (row < 0 || column < 0 || column >= f->columns) continue;
        if (each->is_condition && !codes) continue;
        inputs[taps] = place_of(f, each->is_condition ? codes[l->level] : state, row, column);
        channels[taps] = each->channels, before[taps] = first;
        taps++;
    }
    int64_t groups = (l->outputs + MOST_OUTPUTS - 1) / MOST_OUTPUTS, done = 0;
    for (int64_t g = 0; g < groups; g++) {
        int64_t num = (l->outputs - done + groups - g - 1) / (groups - g);
        const float *weights[MOST_TAPS], *own = p->weights + l->weights + done * l->inputs;
        for (int t = 0; t < taps; t++) weights[t] = own + before[t] * num;
        PRODUCTS_OF[num](inputs, channels, weights, taps, p->weights + l->bias + done,
                         sums + done * BLOCK);
        done += num;
    }
}

/* Store the activation of a channel's drawings; of concat_elu the second half comes later. */
ALWAYS void activate(int64_t is_concat, lanes x, float *at, int64_t second) {
    ints is_positive = x > all(0.0f);
    lanes below = exponential_less_one(-absolute(x));
    store(at, pick(is_positive, x, below));
    if (is_concat) store(at + second, pick(is_positive, below, -x));
}

static void layer_at(const program *p, const layer *l, float *state, int64_t i, int64_t j,
                     float *const *codes, float *sums) {
    sum_layer(p, l, state, i, j, codes, sums);
    if (l->kind == PARAMETERS) return;
    float *active = place_of(&p->features[l->active], state, i, j);
    if (l->kind == ACTIVE) {
        const int64_t size = l->outputs * BLOCK;
        for (int64_t n = 0; n < size; n += WIDTH)
            activate(p->is_concat, load(sums + n), active + n, size);
        return;
    }
    float *value = place_of(&p->features[l->value], state, i, j);
    int64_t size = p->features[l->value].channels * BLOCK;
    if (l->kind == VALUE) {
        for (int64_t n = 0; n < size; n += WIDTH) {
            lanes x = load(sums + n);
            store(value + n, x);
            activate(p->is_concat, x, active + n, size);
        }
        return;
    }
    const float *source = place_of(&p->features[l->source], state, i, j);
    for (int64_t n = 0; n < size; n += WIDTH) {
        lanes b = load(sums + size + n), e = exponential(-absolute(b));
        lanes gate = pick(b > all(0.0f), all(1.0f), e) / (e + 1.0f);
        lanes x = fused(load(sums + n), gate, load(source + n));
        store(value + n, x);
        activate(p->is_concat, x, active + n, size);
    }
}

/* The mixture of a pixel in float64, from the network's output [mixture][logit, loc, scale]. */
typedef struct {
    double logits[MOST_MIXTURES][BLOCK], locs[MOST_MIXTURES][BLOCK], scales[MOST_MIXTURES][BLOCK];
} mixture;

static void widen(const float *from, double *to) {
    for (int d = 0; d < BLOCK; d++) to[d] = from[d];
}

static void read_mixture(const program *p, const float *raw, mixture *m) {
    for (int64_t k = 0; k < p->mixtures; k++, raw += 3 * BLOCK) {
        widen(raw, m->logits[k]);
        widen(raw + BLOCK, m->locs[k]);
        widen(raw + 2 * BLOCK, m->scales[k]);
        for (int d = 0; d < BLOCK; d += HALF)
            dstore(m->scales[k] + d, dsoftplus(dload(m->scales[k] + d)) + 9.118819655545162e-4);
    }
}

/* Softmax of the logits over a temperature. */
static void weights_of(const program *p, const mixture *m, double temperature,
                       double weights[][BLOCK]) {
    for (int d = 0; d < BLOCK; d += HALF) {
        wides most = dload(m->logits[0] + d), total = dall(0.0);
        for (int64_t k = 1; k < p->mixtures; k++) {
            wides here = dload(m->logits[k] + d);
            most = dpick(here > most, here, most);
        }
        for (int64_t k = 0; k < p->mixtures; k++) {
            wides e = dexponential((dload(m->logits[k] + d) - most) / temperature);
            dstore(weights[k] + d, e);
            total += e;
        }
        for (int64_t k = 0; k < p->mixtures; k++)
            dstore(weights[k] + d, dload(weights[k] + d) / total);
    }
}

/* Add log P of the pixels to nats; model.network.likelihood has the formulas. */
static void add_log_prob(const program *p, const mixture *m, const uint8_t *pixels, double *nats) {
    static const double tiny = 2.2250738585072014e-308;
    double weights[MOST_MIXTURES][BLOCK], level[BLOCK];
    const double half = 1.0 / (double)(p->high - p->low);
    weights_of(p, m, 1.0, weights);
    for (int d = 0; d < BLOCK; d++) level[d] = 2.0 * (pixels[d] - p->low) * half - 1.0;
    for (int d = 0; d < BLOCK; d += HALF) {
        wides x = dload(level + d), total = dall(0.0), most = dall(-1e300);
        longs is_low = x < dall(half - 1.0), is_high = x > dall(1.0 - half);
        wides each[MOST_MIXTURES];
        for (int64_t k = 0; k < p->mixtures; k++) {
            wides scale = dload(m->scales[k] + d), off = x - dload(m->locs[k] + d);
            wides log_cdf = -dsoftplus((off + half) / -scale);
            wides log_survival = -dsoftplus((off - half) / scale);
            wides width = (2.0 * half) / scale, e = dexponential(-width);
            wides series = width * dfused(width, dall(-0.5), dall(1.0));
            wides inside = dlogarithm(dpick(width < dall(1e-8), series, 1.0 - e));
            wides log = dpick(is_low, log_cdf, dpick(is_high, log_survival,
                                                     log_cdf + log_survival + inside));
            wides weight = dload(weights[k] + d);
            each[k] = log + dlogarithm(dpick(weight > dall(tiny), weight, dall(tiny)));
            most = dpick(each[k] > most, each[k], most);
        }
        for (int64_t k = 0; k < p->mixtures; k++) total += dexponential(each[k] - most);
        dstore(nats + d, dload(nats + d) + (most + dlogarithm(total)));
    }
}

/* A component by one number, then the inverse of its distribution at the other. */
static void draw(const program *p, const mixture *m, double temperature, const double *uniforms,
                 double *drawn) {
    double weights[MOST_MIXTURES][BLOCK];
    weights_of(p, m, temperature, weights);
    const double half_range = (double)(p->high - p->low) / 2.0;
    const double low = (double)p->low, high = (double)p->high;
    for (int d = 0; d < BLOCK; d += HALF) {
        wides u = dload(uniforms + d), v = dload(uniforms + BLOCK + d), total = dall(0.0);
        wides loc = dload(m->locs[0] + d), scale = dload(m->scales[0] + d);
        for (int64_t k = 1; k < p->mixtures; k++) {
            total += dload(weights[k - 1] + d);
            longs is_later = u >= total;
            loc = dpick(is_later, dload(m->locs[k] + d), loc);
            scale = dpick(is_later, dload(m->scales[k] + d), scale);
        }
        wides noise = dlogarithm(v) - dlogarithm(1.0 - v);
        wides x = dfused(scale * temperature, noise, loc);
        wides level = dfused(x + 1.0, dall(half_range), dall(low - 0.5));
        /* Beyond the levels first, so that rounding by addition is exact. */
        level = dpick(level < dall(low), dall(low), dpick(level > dall(high), dall(high), level));
        wides whole = (level + 6755399441055744.0) - 6755399441055744.0;
        dstore(drawn + d, dpick(whole < level, whole + 1.0, whole));
    }
}

/* P of each level [level][drawing] in float32. Distances are from the edge next to a component's
loc, where they keep their digits. */
static void level_probs(const program *p, const mixture *m, double temperature, float *probs) {
    double weights[MOST_MIXTURES][BLOCK];
    float near[MOST_MIXTURES][BLOCK], first[MOST_MIXTURES][BLOCK], step[MOST_MIXTURES][BLOCK];
    float ends[MOST_MIXTURES][BLOCK], inner[MOST_MIXTURES][BLOCK];
    const int64_t edges = p->high - p->low;
    const double bin = 2.0 / (double)edges;
    weights_of(p, m, temperature, weights);
    for (int64_t k = 0; k < p->mixtures; k++)
        for (int d = 0; d < BLOCK; d += HALF) {
            wides scale = dload(m->scales[k] + d) * temperature, loc = dload(m->locs[k] + d);
            wides at = (loc + 1.0) / bin - 0.5;
            at = dpick(at < dall(0.0), dall(0.0), at);
            at = dpick(at > dall(edges - 1.0), dall(edges - 1.0), at);
            at = (at + 6755399441055744.0) - 6755399441055744.0;
            wides z = ((at + 0.5) * bin - 1.0 - loc) / scale, width = bin / scale;
            wides e = dexponential(-width);
            wides series = width * dfused(width, dall(-0.5), dall(1.0));
            wides inside = dpick(width < dall(1e-8), series, 1.0 - e);
            wides weight = dload(weights[k] + d);
            /* Beyond 2^20 nothing changes, and float32 has no larger whole numbers to lose. */
            z = dpick(z > dall(1e6), dall(1e6), dpick(z < dall(-1e6), dall(-1e6), z));
            for (int h = 0; h < HALF; h++) {
                near[k][d + h] = (float)at[h], first[k][d + h] = (float)z[h];
                step[k][d + h] = (float)width[h], ends[k][d + h] = (float)weight[h];
                inner[k][d + h] = (float)(weight[h] * inside[h]);
            }
        }
    for (int d = 0; d < BLOCK; d += WIDTH) {
        const lanes least = all(1.17549435e-38f); /* the smallest normal number */
        lanes above[MOST_MIXTURES]; /* 1 - cdf at the edge below the level */
        for (int64_t level = 0; level <= edges; level++) {
            lanes total = all(0.0f), number = all((float)level);
            for (int64_t k = 0; k < p->mixtures; k++) {
                lanes below = all(1.0f), rest = all(0.0f);
                if (level < edges) {
                    lanes distance = number - load(near[k] + d);
                    lanes z = fused(distance, load(step[k] + d), load(first[k] + d));
                    lanes e = exponential(-absolute(z)), one = 1.0f / (e + 1.0f), other = e * one;
                    ints is_right = z > all(0.0f);
                    below = pick(is_right, one, other), rest = pick(is_right, other, one);
                }
                int is_end = level == 0 || level == edges;
                lanes factor = load((is_end ? ends[k] : inner[k]) + d);
                lanes mass = below;
                if (level > 0) mass *= above[k];
                total = fused(mass, factor, total);
                above[k] = rest;
            }
            store(probs + level * BLOCK + d, pick(total > least, total, least));
        }
    }
}

/* The first level whose cumulative guided probability exceeds the number. Its sums are float64:
256 of float32 move the edges of levels so far that one drawing in thirty becomes another. */
static void draw_guided(const program *p, double guidance, const float *own, const float *withheld,
                        float *guided, const double *uniforms, double *drawn) {
    const int64_t levels = p->high - p->low + 1;
    for (int64_t n = 0; n < levels * BLOCK; n += WIDTH) {
        lanes mine = load(own + n), evidence = logarithm(mine / load(withheld + n));
        evidence = pick(evidence < all(1.0f), evidence, all(1.0f));
        store(guided + n, mine * exponential(evidence * (float)guidance));
    }
    for (int d = 0; d < BLOCK; d += HALF) {
        wides total = dall(0.0), passed = dall(0.0), count = dall((double)p->low);
        for (int64_t level = 0; level < levels; level++)
            total += widened(guided + level * BLOCK + d);
        wides number = dload(uniforms + d) * total;
        for (int64_t level = 0; level + 1 < levels; level++) {
            passed += widened(guided + level * BLOCK + d);
            count += dpick(number >= passed, dall(1.0), dall(0.0));
        }
        dstore(drawn + d, count);
    }
}

typedef struct {
    float *passes[2], *sums, *params[2], *probs[2], *guided;
    int num_passes;
} work;

static int64_t depth_of(const program *p, int64_t place) {
    int64_t depth = 0;
    while (depth + 1 < p->num_levels && place % ((int64_t)2 << depth) == 0) depth++;
    return depth;
}

/* Draw the pixel, keep what is given, and write it for both passes to read. */
static void finish_pixel(const program *p, const job *j, work *w, int64_t row, int64_t column) {
    static __thread mixture mixtures[2];
    const int64_t place = row * p->columns + column;
    const double *uniforms = j->uniforms + place * (w->num_passes == 1 ? 2 : 1) * BLOCK;
    uint8_t *pixels = j->images + place * BLOCK;
    double drawn[BLOCK];
    for (int n = 0; n < w->num_passes; n++) read_mixture(p, w->params[n], &mixtures[n]);
    if (w->num_passes == 1) {
        draw(p, &mixtures[0], j->temperature, uniforms, drawn);
    } else {
        for (int n = 0; n < 2; n++)
            level_probs(p, &mixtures[n], j->temperature, w->probs[n]);
        draw_guided(p, j->guidance, w->probs[0], w->probs[1], w->guided, uniforms, drawn);
    }
    const uint8_t *mask = j->mask ? j->mask + place * BLOCK : 0;
    for (int d = 0; d < BLOCK; d++)
        if (!mask || !mask[d]) pixels[d] = (uint8_t)drawn[d];
    add_log_prob(p, &mixtures[0], pixels, j->nats);
    for (int n = 0; n < w->num_passes; n++) {
        float *at = place_of(&p->features[p->pixels], w->passes[n], row, column);
        for (int d = 0; d < BLOCK; d++)
            at[d] = 2.0f * ((float)pixels[d] - (float)p->low) / (float)(p->high - p->low) - 1.0f;
    }
}

static void run_row(const program *p, const job *j, work *w, int64_t row) {
    const int64_t depth = depth_of(p, row);
    for (int64_t n = 0; n < p->num_vertical; n++) {
        const layer *l = &p->layers[p->vertical[n]];
        const int64_t i = row >> l->level;
        if (l->level > depth) continue;
        for (int pass = 0; pass < w->num_passes; pass++)
            for (int64_t column = 0; column < p->columns >> l->level; column++)
                layer_at(p, l, w->passes[pass], i, column, pass ? 0 : j->codes, w->sums);
    }
    for (int64_t column = 0; column < p->columns; column++) {
        const int64_t across = depth_of(p, column), here = across < depth ? across : depth;
        for (int64_t n = 0; n < p->num_horizontal; n++) {
            const layer *l = &p->layers[p->horizontal[n]];
            if (l->level > here) continue;
            for (int pass = 0; pass < w->num_passes; pass++) {
                float *sums = l->kind == PARAMETERS ? w->params[pass] : w->sums;
                layer_at(p, l, w->passes[pass], row >> l->level, column >> l->level,
                         pass ? 0 : j->codes, sums);
            }
        }
        finish_pixel(p, j, w, row, column);
    }
}

/* Draw BLOCK images; sums_size: numbers of the widest layer's sums of one drawing. */
void draw_block(const program *p, const job *j, int64_t sums_size) {
    const int64_t levels = (p->high - p->low + 1) * BLOCK;
    work w = {.num_passes = j->guidance ? 2 : 1};
    float *at = j->memory;
    for (int n = 0; n < 2; n++, at += p->state_size) w.passes[n] = at;
    w.sums = at, at += sums_size * BLOCK;
    for (int n = 0; n < 2; n++, at += 3 * p->mixtures * BLOCK) w.params[n] = at;
    for (int n = 0; n < 2; n++, at += levels) w.probs[n] = at;
    w.guided = at;
    for (int d = 0; d < BLOCK; d++) j->nats[d] = 0.0;
    for (int64_t row = 0; row < p->rows; row++) run_row(p, j, &w, row);
}
