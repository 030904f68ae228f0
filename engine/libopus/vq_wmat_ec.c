/* silk_VQ_WMat_EC: which vector of a codebook of gains predicts a subframe from the one a pitch period ago with the fewest bits, as libopus
 * finds it, bit by bit.
 *
 * A vector's worth does not depend on that of the one before, so eight are weighed at a time. For that the codebooks are kept once more, by
 * columns. */
#include "own.h"

#include "config.h"

#include "main.h"

#include <immintrin.h>
#include <string.h>

void libopus_VQ_WMat_EC(opus_int8 *ind, opus_int32 *res_nrg_Q15, opus_int32 *rate_dist_Q8, opus_int *gain_Q7,
                        const opus_int32 *XX_Q17, const opus_int32 *xX_Q17, const opus_int8 *cb_Q7,
                        const opus_uint8 *cb_gain_Q7, const opus_uint8 *cl_Q5, const opus_int subfr_len,
                        const opus_int32 max_gain_Q7, const opus_int L);

#define AVX2 __attribute__((target("avx2")))

enum {
    LANES = 8,
    CODEBOOK_MAX = 32,
    /* 1.001 in Q15, as libopus begins its sum. */
    ONE_Q15 = 32801,
    /* What 1 in Q15 is to silk_lin2log. */
    LOG_OF_ONE_Q7 = 15 << 7,
};

/* The codebooks by columns. */
static opus_int8 columns[NB_LTP_CBKS][LTP_ORDER][CODEBOOK_MAX];
/* Whether they are there: each codebook is as long as this file presumes. */
static int has_columns;

__attribute__((constructor)) static void turn_codebooks(void) {
    has_columns = SILK_FIX_CONST(1.001, 15) == ONE_Q15;
    for (int book = 0; book < NB_LTP_CBKS; book++) {
        int vectors = silk_LTP_vq_sizes[book];
        if (vectors > CODEBOOK_MAX || vectors % LANES != 0) {
            has_columns = 0;
            return;
        }
        for (int k = 0; k < vectors * LTP_ORDER; k++) {
            columns[book][k % LTP_ORDER][k / LTP_ORDER] = silk_LTP_vq_ptrs_Q7[book][k];
        }
    }
}

/* Eight small numbers of a column or a table. */
AVX2 static inline __m256i widen(const opus_int8 *from) {
    return _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)from));
}

AVX2 static inline __m256i widen_unsigned(const opus_uint8 *from) {
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)from));
}

/* silk_SMULWB: bits 16 to 47 of each product, of which one factor is small: of the other's halves the upper one is multiplied as it is. */
AVX2 static inline __m256i smulwb(__m256i a, __m256i small) {
    __m256i upper = _mm256_mullo_epi32(_mm256_srai_epi32(a, 16), small);
    __m256i lower = _mm256_mullo_epi32(_mm256_and_si256(a, _mm256_set1_epi32(0xffff)), small);
    return _mm256_add_epi32(upper, _mm256_srai_epi32(lower, 16));
}

/* silk_lin2log of what is not negative. */
AVX2 static inline __m256i lin2log(__m256i x) {
    /* Where the highest bit stands is a float's exponent. Without the bit below it nothing is rounded up to the next power. */
    __m256 lone = _mm256_cvtepi32_ps(_mm256_andnot_si256(_mm256_srli_epi32(x, 1), x));
    __m256i exponent = _mm256_sub_epi32(_mm256_srli_epi32(_mm256_castps_si256(lone), 23), _mm256_set1_epi32(127));
    /* The seven bits below. A shift by more than 31, or by less than none, leaves nothing. */
    __m256i down = _mm256_sub_epi32(exponent, _mm256_set1_epi32(7));
    __m256i shifted = _mm256_or_si256(_mm256_srlv_epi32(x, down),
                                      _mm256_sllv_epi32(x, _mm256_sub_epi32(_mm256_setzero_si256(), down)));
    __m256i fraction = _mm256_and_si256(shifted, _mm256_set1_epi32(127));
    __m256i bend = _mm256_mullo_epi32(fraction, _mm256_sub_epi32(_mm256_set1_epi32(128), fraction));
    bend = _mm256_srai_epi32(_mm256_mullo_epi32(bend, _mm256_set1_epi32(179)), 16);
    /* Of 0 libopus takes the highest bit to stand below the lowest. */
    exponent = _mm256_max_epi32(exponent, _mm256_set1_epi32(-1));
    return _mm256_add_epi32(_mm256_add_epi32(fraction, bend), _mm256_slli_epi32(exponent, 7));
}

/* Row `row` of the error of eight vectors, 1 - 2 xX cb + cb' XX cb, of which XX's upper half counts twice. */
AVX2 static inline __m256i row_of(const opus_int32 *XX_Q17, const opus_int32 *xX_Q17, const __m256i cb[LTP_ORDER], int row) {
    __m256i sum_Q24 = _mm256_set1_epi32((opus_int32)(0 - ((opus_uint32)xX_Q17[row] << 7)));
    for (int column = row + 1; column < LTP_ORDER; column++) {
        __m256i weight = _mm256_set1_epi32(XX_Q17[row * LTP_ORDER + column]);
        sum_Q24 = _mm256_add_epi32(sum_Q24, _mm256_mullo_epi32(weight, cb[column]));
    }
    __m256i own = _mm256_mullo_epi32(_mm256_set1_epi32(XX_Q17[row * LTP_ORDER + row]), cb[row]);
    return smulwb(_mm256_add_epi32(_mm256_slli_epi32(sum_Q24, 1), own), cb[row]);
}

/* What each lane has found so far. */
struct best {
    __m256i bits_Q8, energy_Q15, index;
};

/* Takes the better of two for each lane, and of equals the later, as libopus does. */
AVX2 static inline void take(struct best *best, __m256i bits_Q8, __m256i energy_Q15, __m256i index) {
    __m256i is_worse = _mm256_cmpgt_epi32(bits_Q8, best->bits_Q8);
    best->bits_Q8 = _mm256_blendv_epi8(bits_Q8, best->bits_Q8, is_worse);
    best->energy_Q15 = _mm256_blendv_epi8(energy_Q15, best->energy_Q15, is_worse);
    best->index = _mm256_blendv_epi8(index, best->index, is_worse);
}

/* The best lane, into libopus's places. */
AVX2 static void tell(const struct best *best, opus_int8 *ind, opus_int32 *res_nrg_Q15, opus_int32 *rate_dist_Q8,
                      opus_int *gain_Q7, const opus_uint8 *cb_gain_Q7) {
    opus_int32 bits_Q8[LANES], energy_Q15[LANES], index[LANES];
    _mm256_storeu_si256((__m256i *)bits_Q8, best->bits_Q8);
    _mm256_storeu_si256((__m256i *)energy_Q15, best->energy_Q15);
    _mm256_storeu_si256((__m256i *)index, best->index);
    int lane = 0;
    for (int other = 1; other < LANES; other++) {
        int is_better = bits_Q8[other] < bits_Q8[lane] || (bits_Q8[other] == bits_Q8[lane] && index[other] > index[lane]);
        lane = is_better ? other : lane;
    }
    *rate_dist_Q8 = bits_Q8[lane];
    *res_nrg_Q15 = energy_Q15[lane];
    *ind = 0;
    if (bits_Q8[lane] != silk_int32_MAX) {
        *ind = (opus_int8)index[lane];
        *gain_Q7 = cb_gain_Q7[index[lane]];
    }
}

AVX2 static void vq_search(opus_int8 *ind, opus_int32 *res_nrg_Q15, opus_int32 *rate_dist_Q8, opus_int *gain_Q7,
                        const opus_int32 *XX_Q17, const opus_int32 *xX_Q17, const opus_int8 (*book)[CODEBOOK_MAX],
                        const opus_uint8 *cb_gain_Q7, const opus_uint8 *cl_Q5, opus_int subfr_len,
                        opus_int32 max_gain_Q7, opus_int L) {
    const __m256i most = _mm256_set1_epi32(silk_int32_MAX), none = _mm256_setzero_si256();
    struct best best = {most, most, none};
    for (int k = 0; k < L; k += LANES) {
        __m256i cb[LTP_ORDER], energy_Q15 = _mm256_set1_epi32(ONE_Q15);
        for (int column = 0; column < LTP_ORDER; column++) {
            cb[column] = widen(&book[column][k]);
        }
        for (int row = 0; row < LTP_ORDER; row++) {
            energy_Q15 = _mm256_add_epi32(energy_Q15, row_of(XX_Q17, xX_Q17, cb, row));
        }
        __m256i is_out = _mm256_cmpgt_epi32(none, energy_Q15);
        /* A gain that is too large has its price. */
        __m256i excess = _mm256_sub_epi32(widen_unsigned(&cb_gain_Q7[k]), _mm256_set1_epi32(max_gain_Q7));
        energy_Q15 = _mm256_add_epi32(energy_Q15, _mm256_slli_epi32(_mm256_max_epi32(excess, none), 11));
        /* Bits of what is left, 6 dB each, and half of those that name the vector. */
        __m256i bits_Q8 = _mm256_sub_epi32(lin2log(energy_Q15), _mm256_set1_epi32(LOG_OF_ONE_Q7));
        bits_Q8 = _mm256_mullo_epi32(bits_Q8, _mm256_set1_epi32(subfr_len));
        bits_Q8 = _mm256_add_epi32(bits_Q8, _mm256_slli_epi32(widen_unsigned(&cl_Q5[k]), 2));
        __m256i index = _mm256_add_epi32(_mm256_set1_epi32(k), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
        take(&best, _mm256_blendv_epi8(bits_Q8, most, is_out), _mm256_blendv_epi8(energy_Q15, most, is_out), index);
    }
    tell(&best, ind, res_nrg_Q15, rate_dist_Q8, gain_Q7, cb_gain_Q7);
}

/* Which of the codebooks it is; NB_LTP_CBKS for another. */
static int book_of(const opus_int8 *cb_Q7) {
    int book = 0;
    while (book < NB_LTP_CBKS && silk_LTP_vq_ptrs_Q7[book] != cb_Q7) {
        book++;
    }
    return has_columns ? book : NB_LTP_CBKS;
}

void silk_VQ_WMat_EC_sse4_1(opus_int8 *ind, opus_int32 *res_nrg_Q15, opus_int32 *rate_dist_Q8, opus_int *gain_Q7,
                            const opus_int32 *XX_Q17, const opus_int32 *xX_Q17, const opus_int8 *cb_Q7,
                            const opus_uint8 *cb_gain_Q7, const opus_uint8 *cl_Q5, const opus_int subfr_len,
                            const opus_int32 max_gain_Q7, const opus_int L) {
    int book = book_of(cb_Q7);
    if (libopus_choice == LIBOPUS_PLAIN || book == NB_LTP_CBKS) {
        libopus_VQ_WMat_EC(ind, res_nrg_Q15, rate_dist_Q8, gain_Q7, XX_Q17, xX_Q17, cb_Q7, cb_gain_Q7, cl_Q5, subfr_len,
                           max_gain_Q7, L);
        return;
    }
    opus_int gain_before_Q7 = *gain_Q7;
    vq_search(ind, res_nrg_Q15, rate_dist_Q8, gain_Q7, XX_Q17, xX_Q17, columns[book], cb_gain_Q7, cl_Q5, subfr_len,
           max_gain_Q7, L);
    if (libopus_choice == LIBOPUS_COMPARED) {
        opus_int8 their_ind;
        opus_int32 their_energy_Q15, their_bits_Q8;
        opus_int their_gain_Q7 = gain_before_Q7;
        libopus_VQ_WMat_EC(&their_ind, &their_energy_Q15, &their_bits_Q8, &their_gain_Q7, XX_Q17, xX_Q17, cb_Q7,
                           cb_gain_Q7, cl_Q5, subfr_len, max_gain_Q7, L);
        libopus_compared(LIBOPUS_VQ_WMAT_EC, their_ind == *ind && their_energy_Q15 == *res_nrg_Q15 &&
                                                 their_bits_Q8 == *rate_dist_Q8 && their_gain_Q7 == *gain_Q7);
    }
}
