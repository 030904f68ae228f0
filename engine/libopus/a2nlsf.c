/* silk_A2NLSF: the line spectral frequencies of a prediction filter, as libopus finds them, bit by bit.
 *
 * They are where two polynomials P and Q of cos(f) change sign by turns. libopus walks along a table of 129 cosines, a point at a time, and
 * halves the interval of each root three times. Where the roots lie can be told from the signs at all points, and into which eighth of its
 * interval each falls from seven points more: neither has to wait for the other, so all are looked at four at a time. What is rare
 * (a root exactly at a point, a filter whose roots are not all found) is left to libopus's own function. */
#include "own.h"

#include "config.h"

#include "define.h"
#include "SigProc_FIX.h"
#include "tables.h"

#include <immintrin.h>
#include <string.h>

void libopus_A2NLSF(opus_int16 *NLSF, opus_int32 *a_Q16, const opus_int d);

#define AVX2 __attribute__((target("avx2,bmi")))

enum {
    HALF_ORDER_MAX = SILK_MAX_ORDER_LPC / 2,
    /* Vectors of four points that hold the table. */
    VECTORS = (LSF_COS_TAB_SZ_FIX + 1 + 3) / 4,
    /* Points within a root's interval, the interval's end among them. */
    WITHIN = 8,
    /* How many bits of a frequency lie below a step of the table, and below an eighth of it. */
    STEP_BITS = 8,
    EIGHTH_BITS = 5,
};

/* One of the two polynomials: its coefficients (Q16), its values at the table's points, one in the lower half of each 64 bits, and which
 * of the values are negative. The last point's sign stands apart. */
struct polynomial {
    opus_int32 p[HALF_ORDER_MAX + 1];
    opus_int64 y[4 * VECTORS];
    opus_uint64 negative[3];
};

/* From cos(n f) to cos(f)^n. */
static void to_powers(opus_int32 *p, int half) {
    for (int k = 2; k <= half; k++) {
        for (int n = half; n > k; n--) {
            p[n - 2] -= p[n];
        }
        p[k - 2] -= 2 * p[k];
    }
}

/* P and Q, without the roots at 1 and -1 that every filter of even order has. */
static void split(const opus_int32 *a_Q16, opus_int32 *P, opus_int32 *Q, int half) {
    P[half] = Q[half] = 1 << 16;
    for (int k = 0; k < half; k++) {
        opus_int32 before = a_Q16[half - k - 1], behind = a_Q16[half + k];
        P[k] = -before - behind;
        Q[k] = -before + behind;
    }
    for (int k = half; k > 0; k--) {
        P[k - 1] -= P[k];
        Q[k - 1] += Q[k];
    }
    to_powers(P, half);
    to_powers(Q, half);
}

/* The products of the lower halves of each 64 bits. clang, who sees that of the product some bits are not read, would make three
 * multiplications of `_mm256_mul_epi32`. */
AVX2 static inline __m256i multiply(__m256i a, __m256i b) {
    __m256i product;
    __asm__("vpmuldq %2, %1, %0" : "=x"(product) : "x"(a), "x"(b));
    return product;
}

/* The polynomial at four points (Q16), each in the lower half of 64 bits; so are the values, and what stands above them is noise. */
AVX2 static inline __attribute__((always_inline)) __m256i evaluate(const opus_int32 *p, __m256i x, int half) {
    __m256i y = _mm256_set1_epi64x(p[half]);
    for (int n = half - 1; n >= 0; n--) {
        /* Of the product's bits 16 to 47 stay, whatever their sign. */
        y = _mm256_add_epi32(_mm256_set1_epi32(p[n]), _mm256_srli_epi64(multiply(y, x), 16));
    }
    return y;
}

/* A bit for each of four values. */
AVX2 static inline unsigned signs(__m256i y) {
    return (unsigned)_mm256_movemask_pd(_mm256_castsi256_pd(_mm256_slli_epi64(y, 32)));
}

AVX2 static inline __m256i zeros(__m256i y) {
    return _mm256_cmpeq_epi64(_mm256_slli_epi64(y, 32), _mm256_setzero_si256());
}

/* Values at all points of the table. Answers whether one of them is 0. */
AVX2 static inline __attribute__((always_inline)) int walk(struct polynomial *P, struct polynomial *Q, int half) {
    __m256i none = _mm256_setzero_si256();
    memset(P->negative, 0, sizeof P->negative);
    memset(Q->negative, 0, sizeof Q->negative);
    for (int vector = 0; vector < VECTORS; vector++) {
        int at = 4 * vector;
        __m256i x;
        if (at + 4 <= LSF_COS_TAB_SZ_FIX + 1) {
            x = _mm256_cvtepi16_epi64(_mm_loadl_epi64((const __m128i *)&silk_LSFCosTab_FIX_Q12[at]));
        } else {
            x = _mm256_set1_epi64x(silk_LSFCosTab_FIX_Q12[LSF_COS_TAB_SZ_FIX]);
        }
        x = _mm256_slli_epi64(x, 4);
        __m256i at_P = evaluate(P->p, x, half), at_Q = evaluate(Q->p, x, half);
        none = _mm256_or_si256(none, _mm256_or_si256(zeros(at_P), zeros(at_Q)));
        _mm256_storeu_si256((__m256i *)&P->y[at], at_P);
        _mm256_storeu_si256((__m256i *)&Q->y[at], at_Q);
        P->negative[at / 64] |= (opus_uint64)signs(at_P) << at % 64;
        Q->negative[at / 64] |= (opus_uint64)signs(at_Q) << at % 64;
    }
    return !_mm256_testz_si256(none, none);
}

/* The first point from `k` on whose value's sign is not the one given; one beyond the table if there is none. */
AVX2 static int first_other(const struct polynomial *of, int k, int is_negative) {
    opus_uint64 same = is_negative ? ~(opus_uint64)0 : 0;
    for (int word = k / 64; word < 2; word++, k = 64 * word) {
        opus_uint64 others = (of->negative[word] ^ same) >> k % 64;
        if (others != 0) {
            return k + __builtin_ctzll(others);
        }
    }
    return ((of->negative[2] ^ same) & 1) != 0 ? LSF_COS_TAB_SZ_FIX : LSF_COS_TAB_SZ_FIX + 1;
}

/* What libopus's halving would come to between two points: of the value at the lower one and at seven within and the upper one the first
 * pair whose signs differ, by three questions. Answers the frequency's part below a step, or INT32_MIN where libopus has to say. */
AVX2 static inline __attribute__((always_inline)) opus_int32 within(const opus_int32 *p, int k, opus_int32 ylo, int half) {
    opus_int32 x0 = silk_LSFCosTab_FIX_Q12[k - 1], x8 = silk_LSFCosTab_FIX_Q12[k];
    opus_int32 x4 = (x0 + x8 + 1) >> 1, x2 = (x0 + x4 + 1) >> 1, x6 = (x4 + x8 + 1) >> 1;
    opus_int32 x1 = (x0 + x2 + 1) >> 1, x3 = (x2 + x4 + 1) >> 1, x5 = (x4 + x6 + 1) >> 1, x7 = (x6 + x8 + 1) >> 1;
    __m256i lower = evaluate(p, _mm256_slli_epi64(_mm256_setr_epi64x(x1, x2, x3, x4), 4), half);
    __m256i upper = evaluate(p, _mm256_slli_epi64(_mm256_setr_epi64x(x5, x6, x7, x8), 4), half);
    __m256i none = _mm256_or_si256(zeros(lower), zeros(upper));
    if (!_mm256_testz_si256(none, none)) {
        return INT32_MIN;
    }
    opus_int64 y[1 + WITHIN];
    y[0] = ylo;
    _mm256_storeu_si256((__m256i *)&y[1], lower);
    _mm256_storeu_si256((__m256i *)&y[5], upper);
    /* A bit for each of the points from the second on that lies on the lower one's side of the root. */
    unsigned same = (signs(lower) << 1 | signs(upper) << 5) ^ (ylo < 0 ? 0 : ~0u);
    unsigned i = (same >> 4 & 1) << 2;
    i += (same >> (i + 2) & 1) << 1;
    i += same >> (i + 1) & 1;
    opus_int32 lo = (opus_int32)y[i], hi = (opus_int32)y[i + 1], fraction = (opus_int32)(i << EIGHTH_BITS) - (1 << STEP_BITS);
    opus_int32 fall = (opus_int32)((opus_uint32)lo - (opus_uint32)hi);
    if (lo > -65536 && lo < 65536) {
        opus_int32 nominator = (opus_int32)((opus_uint32)lo << EIGHTH_BITS) + (fall >> 1);
        return fall == 0 || fall == -1 ? INT32_MIN : fraction + nominator / fall;
    }
    fall >>= EIGHTH_BITS;
    return fall == 0 || fall == -1 ? INT32_MIN : fraction + lo / fall;
}

/* Answers whether all was usual. The filter is not changed. */
AVX2 static inline __attribute__((always_inline)) int find_of(opus_int16 *NLSF, const opus_int32 *a_Q16, int order) {
    struct polynomial of[2];
    int half = order / 2, root = 0, k = 1;
    split(a_Q16, of[0].p, of[1].p, half);
    if (walk(&of[0], &of[1], half)) {
        return 0;
    }
    if (of[0].negative[0] & 1) {
        NLSF[root++] = 0;
    }
    /* The first root's interval begins with a value. Each later one begins where the one before has ended, with a value of which libopus
     * takes the sign for granted. */
    opus_int32 granted = (opus_int32)of[root].y[0];
    for (; root < order; granted = root & 2 ? -4096 : 4096) {
        const struct polynomial *p = &of[root & 1];
        int at = first_other(p, k, granted < 0);
        if (at > LSF_COS_TAB_SZ_FIX) {
            return 0;
        }
        opus_int32 fraction = within(p->p, at, at == k ? granted : (opus_int32)p->y[at - 1], half);
        if (fraction == INT32_MIN) {
            return 0;
        }
        NLSF[root++] = (opus_int16)silk_min_32((at << STEP_BITS) + fraction, silk_int16_MAX);
        k = at;
    }
    return 1;
}

/* The two orders that libopus has, each with loops of known length. */
AVX2 static int nlsf_find(opus_int16 *NLSF, const opus_int32 *a_Q16, int order) {
    switch (order) {
    case MIN_LPC_ORDER:
        return find_of(NLSF, a_Q16, MIN_LPC_ORDER);
    case MAX_LPC_ORDER:
        return find_of(NLSF, a_Q16, MAX_LPC_ORDER);
    default:
        return 0;
    }
}

/* Both, on filters of their own. */
static void compare(opus_int16 *NLSF, opus_int32 *a_Q16, opus_int d) {
    opus_int16 ours[SILK_MAX_ORDER_LPC];
    int is_usual = nlsf_find(ours, a_Q16, d);
    libopus_A2NLSF(NLSF, a_Q16, d);
    if (is_usual) {
        libopus_compared(LIBOPUS_A2NLSF, memcmp(ours, NLSF, (size_t)d * sizeof ours[0]) == 0);
    }
}

void silk_A2NLSF(opus_int16 *NLSF, opus_int32 *a_Q16, const opus_int d) {
    if (libopus_choice == LIBOPUS_COMPARED) {
        compare(NLSF, a_Q16, d);
    } else if (libopus_choice == LIBOPUS_PLAIN || !nlsf_find(NLSF, a_Q16, d)) {
        libopus_A2NLSF(NLSF, a_Q16, d);
    }
}
