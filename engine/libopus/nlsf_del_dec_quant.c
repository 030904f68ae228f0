/* silk_NLSF_del_dec_quant: the indices of a line spectrum's second stage, by a search that keeps four ways open, as libopus finds them, bit
 * by bit.
 *
 * The four ways go through the same arithmetic, so each has a lane. libopus's tables of levels and rates are formulas here: a level is its
 * index less a tenth of a step, and what lies beyond the coded amplitudes costs 43 more for each step (Q5). */
#include "own.h"

#include "config.h"

#include "main.h"

#include <immintrin.h>
#include <string.h>

opus_int32 libopus_NLSF_del_dec_quant(opus_int8 indices[], const opus_int16 x_Q10[], const opus_int16 w_Q5[],
                                      const opus_uint8 pred_coef_Q8[], const opus_int16 ec_ix[],
                                      const opus_uint8 ec_rates_Q5[], const opus_int quant_step_size_Q16,
                                      const opus_int16 inv_quant_step_size_Q6, const opus_int32 mu_Q20,
                                      const opus_int16 order);

#define AVX2 __attribute__((target("avx2")))

enum {
    WAYS = NLSF_QUANT_DEL_DEC_STATES,
    /* A rate beyond the coded amplitudes: so much, and so much for each step (Q5). */
    RATE_BEYOND_Q5 = 280 - 43 * NLSF_QUANT_MAX_AMPLITUDE,
    RATE_STEP_Q5 = 43,
    LEVEL_ADJUST_Q10 = 102,
};

/* One of the two candidates of each way: what comes of it, and what it costs so far. */
struct candidate {
    __m128i out_Q10, cost_Q25;
};

/* silk_SMULBB: the product of the lower halves. */
AVX2 static inline __m128i smulbb(__m128i a, __m128i b) {
    return _mm_madd_epi16(a, _mm_and_si128(b, _mm_set1_epi32(0xffff)));
}

AVX2 static inline __m128i to_16_bits(__m128i x) {
    return _mm_srai_epi32(_mm_slli_epi32(x, 16), 16);
}

AVX2 static inline __m128i lowest(__m128i x) {
    x = _mm_min_epi32(x, _mm_shuffle_epi32(x, 0x4e));
    return _mm_min_epi32(x, _mm_shuffle_epi32(x, 0xb1));
}

AVX2 static inline __m128i highest(__m128i x) {
    x = _mm_max_epi32(x, _mm_shuffle_epi32(x, 0x4e));
    return _mm_max_epi32(x, _mm_shuffle_epi32(x, 0xb1));
}

/* The first lane that is equal. */
AVX2 static inline int first_equal(__m128i x, __m128i to) {
    return __builtin_ctz((unsigned)_mm_movemask_ps(_mm_castsi128_ps(_mm_cmpeq_epi32(x, to))));
}

/* One lane's value in all. */
AVX2 static inline __m128i lane_of(__m128i x, int lane) {
    return _mm_castps_si128(_mm_permutevar_ps(_mm_castsi128_ps(x), _mm_set1_epi32(lane)));
}

/* All bits of one lane. */
AVX2 static inline __m128i only(int lane) {
    return _mm_cmpeq_epi32(_mm_setr_epi32(0, 1, 2, 3), _mm_set1_epi32(lane));
}

/* What depends on the coefficient alone. */
struct step {
    /* Rates of the coded amplitudes, from the lowest on, a byte each. */
    __m128i rates_Q5;
    __m128i in_Q10, w_Q5, step_Q16, mu_Q20;
};

/* The candidate of an index. */
AVX2 static inline struct candidate weigh(const struct step *step, __m128i index, __m128i pred_Q10, __m128i cost_Q25) {
    __m128i level_Q10 = _mm_sub_epi32(_mm_slli_epi32(index, 10), _mm_sign_epi32(_mm_set1_epi32(LEVEL_ADJUST_Q10), index));
    struct candidate of;
    of.out_Q10 = to_16_bits(_mm_add_epi32(_mm_srai_epi32(smulbb(level_Q10, step->step_Q16), 16), pred_Q10));
    __m128i amplitude = _mm_abs_epi32(index);
    __m128i beyond = _mm_add_epi32(_mm_mullo_epi16(amplitude, _mm_set1_epi32(RATE_STEP_Q5)), _mm_set1_epi32(RATE_BEYOND_Q5));
    /* A byte's place in the lowest byte of each lane, and nothing in the others. */
    __m128i place = _mm_and_si128(_mm_add_epi32(index, _mm_set1_epi32(NLSF_QUANT_MAX_AMPLITUDE)), _mm_set1_epi32(0xf));
    __m128i coded = _mm_shuffle_epi8(step->rates_Q5, _mm_or_si128(place, _mm_set1_epi32((int)0x80808000)));
    __m128i is_coded = _mm_cmpgt_epi32(_mm_set1_epi32(NLSF_QUANT_MAX_AMPLITUDE), amplitude);
    __m128i rate_Q5 = _mm_blendv_epi8(beyond, coded, is_coded);
    __m128i error_Q10 = _mm_sub_epi32(step->in_Q10, of.out_Q10);
    __m128i error_Q25 = _mm_mullo_epi32(smulbb(error_Q10, error_Q10), step->w_Q5);
    of.cost_Q25 = _mm_add_epi32(_mm_add_epi32(cost_Q25, error_Q25), smulbb(step->mu_Q20, rate_Q5));
    return of;
}

/* The four ways that go on. */
struct ways {
    __m128i out_Q10, cost_Q25;
    /* The indices of each so far, by the coefficient's number. */
    opus_int8 indices[WAYS][MAX_LPC_ORDER];
};

/* Of the lower and the upper candidates the four that cost least, as libopus takes them: the better one of each way, and in the place of
 * the dearest of those the cheapest of the others for as long as that is cheaper. */
AVX2 static inline __m128i prune(struct ways *ways, __m128i index, struct candidate lower, struct candidate upper) {
    __m128i is_upper = _mm_cmpgt_epi32(lower.cost_Q25, upper.cost_Q25);
    __m128i out_Q10 = _mm_blendv_epi8(lower.out_Q10, upper.out_Q10, is_upper);
    __m128i other_out_Q10 = _mm_blendv_epi8(upper.out_Q10, lower.out_Q10, is_upper);
    __m128i cost_Q25 = _mm_min_epi32(lower.cost_Q25, upper.cost_Q25);
    const __m128i other_cost_Q25 = _mm_max_epi32(lower.cost_Q25, upper.cost_Q25);
    __m128i chosen = _mm_sub_epi32(index, is_upper);
    __m128i other = _mm_add_epi32(_mm_add_epi32(index, _mm_set1_epi32(1)), is_upper);
    __m128i left_Q25 = cost_Q25, offered_Q25 = other_cost_Q25;
    for (;;) {
        __m128i cheapest_Q25 = lowest(offered_Q25), dearest_Q25 = highest(left_Q25);
        if (_mm_cvtsi128_si32(cheapest_Q25) >= _mm_cvtsi128_si32(dearest_Q25)) {
            break;
        }
        int from = first_equal(offered_Q25, cheapest_Q25), to = first_equal(left_Q25, dearest_Q25);
        __m128i there = only(to);
        cost_Q25 = _mm_blendv_epi8(cost_Q25, lane_of(other_cost_Q25, from), there);
        out_Q10 = _mm_blendv_epi8(out_Q10, lane_of(other_out_Q10, from), there);
        chosen = _mm_blendv_epi8(chosen, lane_of(other, from), there);
        memcpy(ways->indices[to], ways->indices[from], sizeof ways->indices[to]);
        left_Q25 = _mm_andnot_si128(there, left_Q25);
        offered_Q25 = _mm_blendv_epi8(offered_Q25, _mm_set1_epi32(silk_int32_MAX), only(from));
    }
    ways->out_Q10 = out_Q10;
    ways->cost_Q25 = cost_Q25;
    return chosen;
}

AVX2 static opus_int32 nlsf_search(opus_int8 indices[], const opus_int16 x_Q10[], const opus_int16 w_Q5[],
                              const opus_uint8 pred_coef_Q8[], const opus_int16 ec_ix[], const opus_uint8 ec_rates_Q5[],
                              opus_int quant_step_size_Q16, opus_int16 inv_quant_step_size_Q6, opus_int32 mu_Q20,
                              opus_int order) {
    const __m128i most = _mm_set1_epi32(NLSF_QUANT_MAX_AMPLITUDE_EXT - 1), least = _mm_set1_epi32(-NLSF_QUANT_MAX_AMPLITUDE_EXT);
    struct step step = {.step_Q16 = _mm_set1_epi32(quant_step_size_Q16), .mu_Q20 = _mm_set1_epi32(mu_Q20)};
    struct ways ways = {.out_Q10 = _mm_setzero_si128(), .cost_Q25 = _mm_setzero_si128()};
    for (int i = order - 1; i >= 0; i--) {
        const opus_uint8 *rates_Q5 = &ec_rates_Q5[ec_ix[i]];
        step.rates_Q5 = _mm_insert_epi8(_mm_loadl_epi64((const __m128i *)rates_Q5), rates_Q5[8], 8);
        step.in_Q10 = _mm_set1_epi32(x_Q10[i]);
        step.w_Q5 = _mm_set1_epi32(w_Q5[i]);
        __m128i pred_Q10 = _mm_srai_epi32(smulbb(ways.out_Q10, _mm_set1_epi32(pred_coef_Q8[i])), 8);
        __m128i left_Q10 = _mm_sub_epi32(step.in_Q10, pred_Q10);
        __m128i index = _mm_srai_epi32(smulbb(left_Q10, _mm_set1_epi32(inv_quant_step_size_Q6)), 16);
        index = _mm_max_epi32(_mm_min_epi32(index, most), least);
        struct candidate lower = weigh(&step, index, pred_Q10, ways.cost_Q25);
        __m128i above = _mm_add_epi32(index, _mm_set1_epi32(1));
        struct candidate upper = weigh(&step, above, pred_Q10, ways.cost_Q25);
        __m128i chosen;
        if (i == order - 1) {
            /* All lanes are one way still: two come of it, twice. */
            ways.out_Q10 = _mm_unpacklo_epi32(lower.out_Q10, upper.out_Q10);
            ways.cost_Q25 = _mm_unpacklo_epi32(lower.cost_Q25, upper.cost_Q25);
            chosen = _mm_unpacklo_epi32(index, above);
        } else if (i == order - 2) {
            ways.out_Q10 = _mm_unpacklo_epi64(lower.out_Q10, upper.out_Q10);
            ways.cost_Q25 = _mm_unpacklo_epi64(lower.cost_Q25, upper.cost_Q25);
            chosen = _mm_unpacklo_epi64(index, above);
        } else {
            chosen = prune(&ways, index, lower, upper);
        }
        ways.indices[0][i] = (opus_int8)_mm_extract_epi8(chosen, 0);
        ways.indices[1][i] = (opus_int8)_mm_extract_epi8(chosen, 4);
        ways.indices[2][i] = (opus_int8)_mm_extract_epi8(chosen, 8);
        ways.indices[3][i] = (opus_int8)_mm_extract_epi8(chosen, 12);
    }
    __m128i cheapest_Q25 = lowest(ways.cost_Q25);
    memcpy(indices, ways.indices[first_equal(ways.cost_Q25, cheapest_Q25)], (size_t)order);
    return _mm_cvtsi128_si32(cheapest_Q25);
}

opus_int32 silk_NLSF_del_dec_quant(opus_int8 indices[], const opus_int16 x_Q10[], const opus_int16 w_Q5[],
                                   const opus_uint8 pred_coef_Q8[], const opus_int16 ec_ix[],
                                   const opus_uint8 ec_rates_Q5[], const opus_int quant_step_size_Q16,
                                   const opus_int16 inv_quant_step_size_Q6, const opus_int32 mu_Q20,
                                   const opus_int16 order) {
    if (libopus_choice == LIBOPUS_OWN_FUNCTIONS) {
        return nlsf_search(indices, x_Q10, w_Q5, pred_coef_Q8, ec_ix, ec_rates_Q5, quant_step_size_Q16, inv_quant_step_size_Q6,
                      mu_Q20, order);
    }
    opus_int32 theirs_Q25 =
        libopus_NLSF_del_dec_quant(indices, x_Q10, w_Q5, pred_coef_Q8, ec_ix, ec_rates_Q5, quant_step_size_Q16,
                                   inv_quant_step_size_Q6, mu_Q20, order);
    if (libopus_choice == LIBOPUS_COMPARED) {
        opus_int8 ours[MAX_LPC_ORDER];
        opus_int32 ours_Q25 = nlsf_search(ours, x_Q10, w_Q5, pred_coef_Q8, ec_ix, ec_rates_Q5, quant_step_size_Q16,
                                     inv_quant_step_size_Q6, mu_Q20, order);
        libopus_compared(LIBOPUS_NLSF_DEL_DEC_QUANT,
                         ours_Q25 == theirs_Q25 && memcmp(ours, indices, (size_t)order) == 0);
    }
    return theirs_Q25;
}
