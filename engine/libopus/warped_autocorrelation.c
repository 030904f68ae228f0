/* silk_warped_autocorrelation_FLP: how a signal resembles what comes out of a chain of all-pass sections behind it, as libopus computes it, to
 * the last bit of each double.
 *
 * A section waits for the one before it, so that libopus's loop waits 20 times a sample. But a section can work on one sample while the
 * next works on the sample before: here each section is one sample behind the one before it, and all work at once, each on the same numbers
 * in the same order. Section s is lane s / VECTORS of vector s % VECTORS, so that the section before it stands in the vector before. */
#include "own.h"

#include "config.h"

#include "main_FLP.h"

#include <immintrin.h>
#include <string.h>

void libopus_warped_autocorrelation_FLP(silk_float *corr, const silk_float *input, const silk_float warping,
                                        const opus_int length, const opus_int order);

#define AVX2 __attribute__((target("avx2")))

enum {
    LANES = 4,
    VECTORS_MAX = (MAX_SHAPE_LPC_ORDER + 1 + LANES - 1) / LANES,
    /* Steps until the last section has seen the last sample. */
    STEPS_MAX = SHAPE_LPC_WIN_MAX + MAX_SHAPE_LPC_ORDER,
};

/* For each step the samples that the lanes of the first vector are at; before them as many steps as vectors, all silence. */
AVX2 static inline void lay_out(__m256d *at, const silk_float *input, int length, int order, int vectors) {
    for (int step = 0; step < vectors; step++) {
        at[step] = _mm256_setzero_pd();
    }
    double padded[LANES * VECTORS_MAX + STEPS_MAX];
    const int before = LANES * vectors;
    memset(padded, 0, (size_t)before * sizeof padded[0]);
    for (int n = 0; n < length; n++) {
        padded[before + n] = input[n];
    }
    memset(padded + before + length, 0, (size_t)order * sizeof padded[0]);
    for (int step = 0; step < length + order; step++) {
        const double *newest = padded + before + step;
        at[vectors + step] = _mm256_setr_pd(newest[0], newest[-vectors], newest[-2 * vectors], newest[-3 * vectors]);
    }
}

/* With a number of vectors that the compiler knows. */
AVX2 static inline __attribute__((always_inline)) void correlate(silk_float *corr, const silk_float *input, double warping,
                                                                 int length, int order, int vectors) {
    __m256d at[VECTORS_MAX + STEPS_MAX], last[VECTORS_MAX], before_last[VECTORS_MAX], sum[VECTORS_MAX];
    const __m256d factor = _mm256_set1_pd(warping);
    lay_out(at, input, length, order, vectors);
    for (int vector = 0; vector < vectors; vector++) {
        last[vector] = before_last[vector] = sum[vector] = _mm256_setzero_pd();
    }
    /* What the sections before those of the first vector said: those of the last vector, a lane further. */
    __m256d turned = _mm256_setzero_pd();
    for (int step = 0; step < length + order; step++) {
        __m256d weighted = _mm256_mul_pd(factor, last[vectors - 1]);
        const __m256d turned_before = turned, turned_weighted = _mm256_permute4x64_pd(weighted, 0x93);
        turned = _mm256_permute4x64_pd(last[vectors - 1], 0x93);
#pragma GCC unroll 8
        for (int vector = vectors - 1; vector >= 0; vector--) {
            __m256d prior = vector > 0 ? before_last[vector - 1] : turned_before;
            __m256d weighted_prior = vector > 0 ? _mm256_mul_pd(factor, last[vector - 1]) : turned_weighted;
            __m256d out = _mm256_sub_pd(_mm256_add_pd(prior, weighted), weighted_prior);
            if (vector == 0) {
                /* What goes into the first section is the sample itself. */
                out = _mm256_blend_pd(out, at[vectors + step], 1);
            }
            sum[vector] = _mm256_add_pd(sum[vector], _mm256_mul_pd(at[vectors + step - vector], out));
            before_last[vector] = last[vector];
            last[vector] = out;
            weighted = weighted_prior;
        }
    }
    double sums[VECTORS_MAX][LANES];
    for (int vector = 0; vector < vectors; vector++) {
        _mm256_storeu_pd(sums[vector], sum[vector]);
    }
    for (int section = 0; section <= order; section++) {
        corr[section] = (silk_float)sums[section % vectors][section / vectors];
    }
}

/* Answers whether it is a length and an order that libopus asks for. */
AVX2 static int warped(silk_float *corr, const silk_float *input, double warping, int length, int order) {
    if (length < 0 || length > SHAPE_LPC_WIN_MAX) {
        return 0;
    }
    switch (order) {
    case 12:
    case 14:
        correlate(corr, input, warping, length, order, 4);
        return 1;
    case 16:
    case 18:
        correlate(corr, input, warping, length, order, 5);
        return 1;
    case 20:
    case 22:
        correlate(corr, input, warping, length, order, 6);
        return 1;
    case 24:
        correlate(corr, input, warping, length, order, 7);
        return 1;
    default:
        return 0;
    }
}

__attribute__((noinline, cold)) static void compare(silk_float *corr, const silk_float *input, silk_float warping,
                                                    opus_int length, opus_int order) {
    silk_float ours[MAX_SHAPE_LPC_ORDER + 1];
    int is_ours = warped(ours, input, warping, length, order);
    libopus_warped_autocorrelation_FLP(corr, input, warping, length, order);
    if (is_ours) {
        libopus_compared(LIBOPUS_WARPED_AUTOCORRELATION, memcmp(ours, corr, (size_t)(order + 1) * sizeof ours[0]) == 0);
    }
}

void silk_warped_autocorrelation_FLP(silk_float *corr, const silk_float *input, const silk_float warping,
                                     const opus_int length, const opus_int order) {
    if (libopus_choice == LIBOPUS_COMPARED) {
        compare(corr, input, warping, length, order);
    } else if (libopus_choice == LIBOPUS_PLAIN || !warped(corr, input, warping, length, order)) {
        libopus_warped_autocorrelation_FLP(corr, input, warping, length, order);
    }
}
