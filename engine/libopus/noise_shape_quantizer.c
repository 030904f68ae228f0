/* silk_noise_shape_quantizer: quantizes a subframe so that the noise follows the speech's spectrum, by one path of decisions (encoder
 * complexities 0 and 1). Bit for bit what libopus's gives, at a third of its time, where the processor has AVX2.
 *
 * Why: each sample waits for the one before it, so what counts is the way from one decision to the next. libopus goes through both
 * filters in full on that way, and branches by the level, which no processor can foresee. Here
 *  - what older samples add to the filters is added up in vectors as they become known ("struct filter"), and only the newest one's
 *    share is left for the way;
 *  - the pitch predictions of eight samples are made at once;
 *  - the two candidates for a level, and from where on the upper one costs less, stand in a table ("struct staircase");
 *  - all that only later subframes need is done after the loop.
 * All sums are modulo 2^32, as libopus's are in effect, so that their order is free. */
#include "config.h"
#include "main.h"
#include "own.h"

#include <immintrin.h>
#include <string.h>

#define AVX2 __attribute__((target("avx2,bmi,bmi2")))
#define AVX2_INLINE AVX2 static inline __attribute__((always_inline))

/* Samples whose pitch prediction is made at once: none of them may need another one, and the shortest lag is 2 ms at 8 kHz. */
#define BLOCK 8
#define SHORTEST_LAG 16

/* Residuals are limited to -31..30 levels before the dither turns them; within the tighter of both, nothing need be done. */
#define LEVEL_Q10 1024
#define LOWEST_Q10 (-31 * LEVEL_Q10)
#define HIGHEST_Q10 (30 * LEVEL_Q10)
/* Up to it, pulses are the number of the level. */
#define OFFSET_MAX_Q10 400
/* From there on libopus favours small levels by another rule. */
#define LAMBDA_MAX_Q10 2048

void libopus_noise_shape_quantizer(silk_nsq_state *nsq, opus_int signal_type, const opus_int32 x_sc_Q10[],
                                   opus_int8 pulses[], opus_int16 xq[], opus_int32 sLTP_Q15[], const opus_int16 a_Q12[],
                                   const opus_int16 b_Q14[], const opus_int16 AR_shp_Q13[], opus_int lag,
                                   opus_int32 HarmShapeFIRPacked_Q14, opus_int Tilt_Q14, opus_int32 LF_shp_Q14,
                                   opus_int32 Gain_Q16, opus_int Lambda_Q10, opus_int offset_Q10, opus_int length,
                                   opus_int shapingLPCOrder, opus_int predictLPCOrder, int arch);

/* The arguments of one call, under libopus's names. */
struct subframe {
    const opus_int32 *x_sc_Q10;
    opus_int8 *pulses;
    opus_int16 *xq;
    opus_int32 *sLTP_Q15;
    const opus_int16 *a_Q12;
    const opus_int16 *b_Q14;
    const opus_int16 *AR_shp_Q13;
    int voiced;
    int lag;
    opus_int32 HarmShapeFIRPacked_Q14;
    opus_int16 Tilt_Q14;
    opus_int32 LF_shp_Q14;
    opus_int32 Gain_Q10;
    opus_int32 Lambda_Q10;
    opus_int32 offset_Q10;
    int length;
    int shapingLPCOrder;
};

/* Keeps the compiler from adding up in another order than is written: what comes last is to be added last. */
#define ADDED_FIRST(value) __asm__("" : "+r"(value))

/* silk_SMULWB. */
AVX2_INLINE opus_uint32 mul_w(opus_uint32 a, opus_int64 b) {
    return (opus_uint32)(((opus_int32)a * b) >> 16);
}

/* silk_SMULWB of eight: the products of even and of odd lanes are 64 bits wide. */
AVX2_INLINE __m256i joined(__m256i even, __m256i odd) {
    return _mm256_blend_epi32(_mm256_srli_epi64(even, 16), _mm256_slli_epi64(odd, 16), 0xAA);
}

AVX2_INLINE __m256i mul_w_8(__m256i a, __m256i b) {
    return joined(_mm256_mul_epi32(a, b), _mm256_mul_epi32(_mm256_srli_epi64(a, 32), b));
}

AVX2_INLINE __m256i load_8(const opus_int32 *from) {
    return _mm256_loadu_si256((const void *)from);
}

AVX2_INLINE void store_8(opus_int32 *to, __m256i values) {
    _mm256_storeu_si256((void *)to, values);
}

/* The older taps of an FIR filter, the other way round than usual: each sample that comes is at once multiplied by all coefficients, and the
 * products are added to the results that they belong to. A result leaves when all its samples were there. */
struct filter {
    /* Coefficients of up to 16 taps, which are those of the next results' lanes; for 64-bit products, even and odd ones apart. */
    __m256i even[2], odd[2];
    /* The results that are under way, the next one first. */
    __m256i sums[2];
    /* What a result begins with. */
    __m256i bias;
};

/* All taps but the `newest`, of which there are one or two. */
AVX2_INLINE void filter_begin(struct filter *filter, const opus_int16 *coefficients, int order, int newest) {
    opus_int16 padded[18] = {0};
    memcpy(padded, coefficients, 10 * sizeof(opus_int16));
    for (int tap = 10; tap < order; tap++) {
        padded[tap] = coefficients[tap];
    }
    filter->bias = _mm256_set1_epi32(order >> 1);
    for (int half = 0; half < 2; half++) {
        filter->even[half] = _mm256_cvtepi16_epi32(_mm_loadu_si128((const void *)(padded + newest + 8 * half)));
        filter->odd[half] = _mm256_shuffle_epi32(filter->even[half], 0xF5);
        filter->sums[half] = filter->bias;
    }
}

/* Takes a sample, and returns what was added to the result that is `newest` samples after the one after this sample. */
AVX2_INLINE opus_uint32 filter_take(struct filter *filter, opus_uint32 value, int halves) {
    const __m256i next = _mm256_setr_epi32(1, 2, 3, 4, 5, 6, 7, 0);
    const __m256i sample = _mm256_set1_epi32((opus_int32)value);
    for (int half = 0; half < halves; half++) {
        __m256i comes = half + 1 < halves ? filter->sums[half + 1] : filter->bias;
        __m256i moved = _mm256_permutevar8x32_epi32(_mm256_blend_epi32(filter->sums[half], comes, 1), next);
        __m256i products =
            joined(_mm256_mul_epi32(sample, filter->even[half]), _mm256_mul_epi32(sample, filter->odd[half]));
        filter->sums[half] = _mm256_add_epi32(moved, products);
    }
    return (opus_uint32)_mm256_cvtsi256_si32(filter->sums[0]);
}

/* Steps for levels from -ZERO_STEP to more than ZERO_STEP. */
#define STEPS 72
#define ZERO_STEP 32
#define STEP_Q13 (1 << 13)

/* Which level a residual becomes. Each step is one level wide; residuals that lie on it have two candidates, of which the upper one, which is
 * the next step's lower one, is better above the step's threshold. The first STEPS are for residuals as they are; then come those for
 * residuals that the dither turns, which are the same stairs turned by 180 degrees.
 *
 * A residual's place is where it lies in all this, so that its step is the place without fraction. */
struct staircase {
    opus_int32 threshold_Q13[2 * STEPS];
    opus_int32 lower_Q14[2 * STEPS];
};

/* Where a residual of zero lies, and how much further on if it is turned. */
AVX2_INLINE opus_int32 zero_place_Q13(opus_int32 offset_Q10) {
    return ZERO_STEP * STEP_Q13 - 8 * offset_Q10;
}

AVX2_INLINE opus_int32 turned_place_Q13(opus_int32 offset_Q10) {
    return STEPS * STEP_Q13 + 8 * (2 * offset_Q10 + LEVEL_Q10 - 1);
}

/* Values that rise by `rise`, eight at a time. */
AVX2_INLINE void fill_rising(opus_int32 *to, int eights, opus_int32 first, opus_int32 rise) {
    const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    __m256i values = _mm256_add_epi32(_mm256_set1_epi32(first), _mm256_mullo_epi32(lanes, _mm256_set1_epi32(rise)));
    for (int eight = 0; eight < eights; eight++) {
        store_8(to + 8 * eight, values);
        values = _mm256_add_epi32(values, _mm256_set1_epi32(8 * rise));
    }
}

/* From step `first` on, all thresholds are this much above the step. */
AVX2_INLINE void set_thresholds(struct staircase *stairs, int first, int eights, opus_int32 above_Q10) {
    fill_rising(stairs->threshold_Q13 + first, eights, first * STEP_Q13 + 8 * above_Q10 + 7, STEP_Q13);
}

AVX2_INLINE void set_threshold(struct staircase *stairs, int step, opus_int32 above_Q10) {
    stairs->threshold_Q13[step] = step * STEP_Q13 + 8 * above_Q10 + 7;
}

/* libopus's rules for rate and distortion of the two candidates, solved for the residual above which the upper one is better:
 * 2 r (q2 - q1) > q2^2 - q1^2 + Lambda (|q2| - |q1|). */
AVX2_INLINE void build_thresholds(struct staircase *stairs, opus_int32 Lambda_Q10, opus_int32 offset_Q10) {
    const opus_int32 adjust = QUANT_LEVEL_ADJUST_Q10, turned = LEVEL_Q10 - 2;
    const int zero = ZERO_STEP, turned_zero = STEPS + ZERO_STEP;
    const opus_int32 positive = LEVEL_Q10 / 2 - adjust + (Lambda_Q10 >> 1);
    const opus_int32 negative = LEVEL_Q10 / 2 + adjust - ((Lambda_Q10 + 1) >> 1);
    /* Around zero one of the candidates is the offset alone, and they are nearer to each other. */
    const opus_int32 apart = LEVEL_Q10 - adjust;
    const opus_int32 above_zero = apart / 2 + (Lambda_Q10 >> 1);
    const opus_int32 product = (apart - 2 * offset_Q10) * (apart + Lambda_Q10);
    const opus_int32 below_zero = LEVEL_Q10 - offset_Q10 - (product + 2 * apart - 1) / (2 * apart);

    set_thresholds(stairs, 0, zero / 8, negative);
    set_thresholds(stairs, zero, (STEPS - zero) / 8, positive);
    set_threshold(stairs, zero - 1, below_zero);
    set_threshold(stairs, zero, above_zero);
    set_thresholds(stairs, STEPS, zero / 8, turned - positive);
    set_thresholds(stairs, turned_zero, (STEPS - zero) / 8, turned - negative);
    set_threshold(stairs, turned_zero, turned - above_zero);
    set_threshold(stairs, turned_zero + 1, turned - below_zero);
}

AVX2_INLINE void build_levels(struct staircase *stairs, opus_int32 offset_Q10) {
    const opus_int32 adjust = QUANT_LEVEL_ADJUST_Q10, lowest = -ZERO_STEP * LEVEL_Q10, rise = 16 * LEVEL_Q10;
    const int up = ZERO_STEP / 8, down = (STEPS - ZERO_STEP) / 8;
    opus_int32 *levels = stairs->lower_Q14;
    fill_rising(levels, up, 16 * (lowest + adjust + offset_Q10), rise);
    fill_rising(levels + ZERO_STEP, down, 16 * (offset_Q10 - adjust), rise);
    levels[ZERO_STEP] = 16 * offset_Q10;
    levels += STEPS;
    fill_rising(levels, up, 16 * (lowest - LEVEL_Q10 + adjust - offset_Q10), rise);
    fill_rising(levels + ZERO_STEP, down, 16 * (-LEVEL_Q10 - adjust - offset_Q10), rise);
    levels[ZERO_STEP] = 16 * (-LEVEL_Q10 + adjust - offset_Q10);
    levels[ZERO_STEP + 1] = -16 * offset_Q10;
}

/* What the loop over the samples reads and writes, each at a fixed place on the stack. */
struct samples {
    /* 8 x_sc_Q10, with what rounds the residual, and with the place of zero. */
    opus_int32 place_Q13[MAX_SUB_FRAME_LENGTH];
    /* 16 x_sc_Q10. */
    opus_int32 x_sc_Q14[MAX_SUB_FRAME_LENGTH];
    /* LTP_pred_Q13, and that less n_LTP_Q13; of the last block some are nothing. */
    opus_int32 LTP_pred_Q13[MAX_SUB_FRAME_LENGTH];
    opus_int32 pitch_Q13[MAX_SUB_FRAME_LENGTH];
    opus_int32 xq_Q14[MAX_SUB_FRAME_LENGTH];
    opus_int8 pulses[MAX_SUB_FRAME_LENGTH];
};

AVX2_INLINE void scale_input(struct samples *samples, const struct subframe *in, opus_int32 zero_Q13) {
    const __m256i zero = _mm256_set1_epi32(zero_Q13 + 4);
    for (int done = 0; done < in->length; done += 8) {
        int at = done + 8 <= in->length ? done : in->length - 8;
        __m256i x_sc_Q10 = load_8(in->x_sc_Q10 + at);
        store_8(samples->place_Q13 + at, _mm256_add_epi32(_mm256_slli_epi32(x_sc_Q10, 3), zero));
        store_8(samples->x_sc_Q14 + at, _mm256_slli_epi32(x_sc_Q10, 4));
    }
}

/* Of a block from `at` on. */
AVX2_INLINE void predict_pitch(struct samples *samples, int at, const struct subframe *in,
                               const opus_int32 *pred_lag_ptr, const opus_int32 *shp_lag_ptr) {
    __m256i predicted = _mm256_setzero_si256();
    if (in->voiced) {
        /* Against the bias of rounding down five times. */
        predicted = _mm256_set1_epi32(2);
        for (int tap = 0; tap < LTP_ORDER; tap++) {
            __m256i product = mul_w_8(load_8(pred_lag_ptr - tap), _mm256_set1_epi32(in->b_Q14[tap]));
            predicted = _mm256_add_epi32(predicted, product);
        }
    }
    __m256i newer = load_8(shp_lag_ptr), older = load_8(shp_lag_ptr - 2);
    __m256i sum = _mm256_add_epi32(newer, older);
    /* silk_ADD_SAT32: where both have one sign and the sum another one. */
    __m256i over = _mm256_and_si256(_mm256_xor_si256(newer, sum), _mm256_xor_si256(older, sum));
    __m256i limit = _mm256_xor_si256(_mm256_srai_epi32(newer, 31), _mm256_set1_epi32(silk_int32_MAX));
    __m256i outer = _mm256_blendv_epi8(sum, limit, _mm256_srai_epi32(over, 31));
    opus_int32 packed = in->HarmShapeFIRPacked_Q14;
    __m256i shaped = _mm256_add_epi32(mul_w_8(outer, _mm256_set1_epi32((opus_int16)packed)),
                                      mul_w_8(load_8(shp_lag_ptr - 1), _mm256_set1_epi32(packed >> 16)));
    store_8(samples->LTP_pred_Q13 + at, predicted);
    store_8(samples->pitch_Q13 + at, _mm256_sub_epi32(predicted, _mm256_slli_epi32(shaped, 1)));
}

/* silk_SAT16(silk_RSHIFT_ROUND(silk_SMULWW(value, Gain_Q10), 8)) of all, and what the next subframe begins with. */
AVX2_INLINE void keep(silk_nsq_state *nsq, const struct subframe *in, const struct samples *samples) {
    const __m256i gain = _mm256_set1_epi32(in->Gain_Q10), one = _mm256_set1_epi32(1);
    const int length = in->length;
    for (int done = 0; done < length; done += 8) {
        /* The last eight may have been partly done already. */
        int at = done + 8 <= length ? done : length - 8;
        __m256i xq_Q14 = load_8(samples->xq_Q14 + at);
        __m256i scaled = _mm256_srai_epi32(mul_w_8(xq_Q14, gain), 7);
        scaled = _mm256_srai_epi32(_mm256_add_epi32(scaled, one), 1);
        __m128i speech = _mm_packs_epi32(_mm256_castsi256_si128(scaled), _mm256_extracti128_si256(scaled, 1));
        store_8(&nsq->sLPC_Q14[NSQ_LPC_BUF_LENGTH + at], xq_Q14);
        _mm_storeu_si128((void *)(in->xq + at), speech);
        _mm_storeu_si64(in->pulses + at, _mm_loadu_si64(samples->pulses + at));
    }
    for (int at = 0; at < in->shapingLPCOrder; at++) {
        int from = length - 2 - at;
        nsq->sAR2_Q14[at] = (opus_int32)((opus_uint32)samples->xq_Q14[from] - (opus_uint32)samples->x_sc_Q14[from]);
    }
    nsq->sLTP_shp_buf_idx += length;
    nsq->sLTP_buf_idx += length;
    memcpy(nsq->sLPC_Q14, samples->xq_Q14 + length - NSQ_LPC_BUF_LENGTH, NSQ_LPC_BUF_LENGTH * sizeof(opus_int32));
}

/* The same place where the residual is within limits, otherwise that of the limit: `zero_Q13` is where a residual of zero lies. */
__attribute__((noinline, cold)) static opus_int64 limited(opus_int64 place_Q13, opus_int64 zero_Q13) {
    opus_int64 r_Q10 = (place_Q13 - zero_Q13) >> 3;
    if (zero_Q13 > STEPS * STEP_Q13) {
        return zero_Q13 + 8 * silk_LIMIT(r_Q10, -HIGHEST_Q10, -LOWEST_Q10);
    }
    return zero_Q13 + 8 * silk_LIMIT(r_Q10, LOWEST_Q10, HIGHEST_Q10);
}

/* The candidate for a residual, and whether it is the upper one. Written for the processor because compilers make a branch of it, or go
 * through memory once more. */
AVX2_INLINE opus_uint32 chosen(opus_int32 place_Q13, const opus_int32 *threshold_Q13, opus_uint32 lower,
                               opus_uint32 upper, opus_int32 *is_upper) {
    __asm__("cmpl %[threshold], %[place]\n\tcmovgl %[upper], %[lower]"
            : [lower] "+r"(lower), "=@ccg"(*is_upper)
            : [upper] "r"(upper), [place] "r"(place_Q13), [threshold] "m"(*threshold_Q13));
    return lower;
}

/* Eight older taps of ten are best in one vector. */
AVX2_INLINE int newest_taps(int order) {
    return order > 10 ? 1 : 2;
}

AVX2_INLINE int halves_of(int order) {
    return order > 10 ? 2 : 1;
}

/* What samples before a subframe are to it. */
struct past {
    struct filter pred, ar;
    /* Of the newest one. */
    opus_uint32 xq_Q14, sDiff_shp_Q14, sLF_AR_shp_Q14, sLTP_shp_Q14;
    /* What older ones add to the first result, and to the second one. */
    opus_uint32 older_pred, coming_pred, older_ar;
};

AVX2_INLINE void past_begin(struct past *past, const silk_nsq_state *nsq, const struct subframe *in,
                            const int predictLPCOrder) {
    const opus_int32 *sLPC_Q14 = &nsq->sLPC_Q14[NSQ_LPC_BUF_LENGTH], *sAR2_Q14 = nsq->sAR2_Q14;
    const int newest = newest_taps(predictLPCOrder), halves = halves_of(predictLPCOrder);
    past->older_pred = past->coming_pred = past->older_ar = 0;
    filter_begin(&past->pred, in->a_Q12, predictLPCOrder, newest);
    filter_begin(&past->ar, in->AR_shp_Q13, in->shapingLPCOrder, 1);
    for (int back = predictLPCOrder; back >= 2; back--) {
        past->older_pred = past->coming_pred;
        past->coming_pred = filter_take(&past->pred, (opus_uint32)sLPC_Q14[-back], halves);
    }
    if (newest == 1) {
        past->older_pred = past->coming_pred;
    } else {
        past->older_pred += mul_w((opus_uint32)sLPC_Q14[-2], in->a_Q12[1]);
    }
    for (int back = in->shapingLPCOrder; back >= 2; back--) {
        past->older_ar = filter_take(&past->ar, (opus_uint32)sAR2_Q14[back - 2], 2);
    }
    past->xq_Q14 = (opus_uint32)sLPC_Q14[-1];
    past->sDiff_shp_Q14 = (opus_uint32)nsq->sDiff_shp_Q14;
    past->sLF_AR_shp_Q14 = (opus_uint32)nsq->sLF_AR_shp_Q14;
    past->sLTP_shp_Q14 = (opus_uint32)nsq->sLTP_shp_Q14[nsq->sLTP_shp_buf_idx - 1];
}

/* `predictLPCOrder` and `has_lag` are known where this is called, so that each pair of them has code of its own. */
AVX2_INLINE void quantize(silk_nsq_state *nsq, const struct subframe *in, const int predictLPCOrder, const int has_lag) {
    const int pred_newest = newest_taps(predictLPCOrder), pred_halves = halves_of(predictLPCOrder), ar_halves = 2;
    opus_int32 *sLTP_shp_Q14 = &nsq->sLTP_shp_Q14[nsq->sLTP_shp_buf_idx];
    opus_int32 *sLTP_Q15 = &in->sLTP_Q15[nsq->sLTP_buf_idx];
    const opus_int64 a0 = in->a_Q12[0], a1 = in->a_Q12[1], c0 = in->AR_shp_Q13[0], tilt = in->Tilt_Q14;
    const opus_int64 lf_low = (opus_int16)in->LF_shp_Q14, lf_high = in->LF_shp_Q14 >> 16;
    const opus_int64 turned_Q13 = turned_place_Q13(in->offset_Q10);
    const opus_int32 zero_Q13 = zero_place_Q13(in->offset_Q10);
    const int length = in->length;
    struct staircase stairs;
    struct samples samples;
    struct past past;
    past_begin(&past, nsq, in, predictLPCOrder);
    scale_input(&samples, in, has_lag ? zero_Q13 : zero_Q13 + 1);
    build_thresholds(&stairs, in->Lambda_Q10, in->offset_Q10);
    build_levels(&stairs, in->offset_Q10);

    opus_uint32 xq = past.xq_Q14, diff = past.sDiff_shp_Q14, lf_ar = past.sLF_AR_shp_Q14, shp = past.sLTP_shp_Q14;
    opus_uint32 older_pred = past.older_pred, coming_pred = past.coming_pred, older_ar = past.older_ar;
    opus_uint32 seed = (opus_uint32)nsq->rand_seed;
    for (int at = 0; at < length; at++) {
        if (has_lag && at % BLOCK == 0) {
            predict_pitch(&samples, at, in, sLTP_Q15 + at - in->lag + LTP_ORDER / 2,
                          sLTP_shp_Q14 + at - in->lag + HARM_SHAPE_FIR_TAPS / 2);
        }
        /* All ones where the dither turns the residual. */
        seed = (opus_uint32)silk_RAND(seed);
        opus_int32 turned = (opus_int32)seed >> 31;
        opus_int64 x_plain_Q13 = samples.place_Q13[at], x_turned_Q13 = x_plain_Q13 + turned_Q13;
        ADDED_FIRST(x_turned_Q13);
        opus_int64 x_place_Q13 = (opus_int32)seed < 0 ? x_turned_Q13 : x_plain_Q13;

        opus_uint32 pred_Q10 = older_pred + mul_w(xq, a0);
        opus_uint32 ar_Q12 = 2 * (older_ar + mul_w(diff, c0)) + mul_w(lf_ar, tilt);
        opus_uint32 lf_high_Q12 = mul_w(lf_ar, lf_high), lf_low_Q12 = mul_w(shp, lf_low);

        /* x_sc_Q10 less the sum, of which this is the complement; with a lag the sum has one bit more, and wraps earlier. */
        opus_int64 minus_sum_Q13;
        if (has_lag) {
            opus_uint32 first_Q13 = 2 * (ar_Q12 + lf_high_Q12) - 8 * pred_Q10 - (opus_uint32)samples.pitch_Q13[at] - 1;
            ADDED_FIRST(first_Q13);
            minus_sum_Q13 = (opus_int32)(first_Q13 + 2 * lf_low_Q12);
        } else {
            opus_uint32 first_Q12 = ar_Q12 + lf_high_Q12 - 4 * pred_Q10 - 1;
            ADDED_FIRST(first_Q12);
            minus_sum_Q13 = 2 * (opus_int64)(opus_int32)(first_Q12 + lf_low_Q12);
        }
        opus_int64 place_Q13 = x_place_Q13 + minus_sum_Q13, r_Q13 = x_plain_Q13 + minus_sum_Q13 - zero_Q13;
        if (__builtin_expect(r_Q13 < -8 * HIGHEST_Q10 || r_Q13 > 8 * HIGHEST_Q10, 0)) {
            place_Q13 = limited(place_Q13, zero_Q13 + (turned & turned_Q13));
        }
        opus_int64 step = place_Q13 >> 13;

        opus_uint32 lf_ar_less = (opus_uint32)samples.x_sc_Q14[at] + 4 * ar_Q12;
        opus_uint32 shp_less = lf_ar_less + 4 * (lf_high_Q12 + lf_low_Q12), base_Q14 = 16 * pred_Q10;
        if (has_lag) {
            base_Q14 += 2 * (opus_uint32)samples.LTP_pred_Q13[at];
        }
        ADDED_FIRST(lf_ar_less);
        ADDED_FIRST(shp_less);
        /* The filters are given what they need for the sample after the next one, or for the one after that. */
        older_pred = coming_pred + (pred_newest == 1 ? 0 : mul_w(xq, a1));
        coming_pred = filter_take(&past.pred, xq, pred_halves);
        older_pred = pred_newest == 1 ? coming_pred : older_pred;
        older_ar = filter_take(&past.ar, diff, ar_halves);

        opus_int32 upper;
        xq = chosen((opus_int32)place_Q13, &stairs.threshold_Q13[step], base_Q14 + (opus_uint32)stairs.lower_Q14[step],
                    base_Q14 + (opus_uint32)stairs.lower_Q14[step + 1], &upper);
        diff = xq - (opus_uint32)samples.x_sc_Q14[at];
        lf_ar = xq - lf_ar_less;
        shp = xq - shp_less;

        /* Turned stairs fall, and the step above the one around zero is theirs for no pulse. */
        opus_uint32 no_pulse = (opus_uint32)(turned & (STEPS + 2 * ZERO_STEP + 2)) - ZERO_STEP;
        opus_uint32 level = (opus_uint32)(((opus_int32)step + upper) ^ turned);
        samples.pulses[at] = (opus_int8)(level + no_pulse);
        seed += no_pulse;
        ADDED_FIRST(seed);
        seed += level;
        samples.xq_Q14[at] = (opus_int32)xq;
        sLTP_shp_Q14[at] = (opus_int32)shp;
        sLTP_Q15[at] = (opus_int32)(2 * (xq - 16 * pred_Q10));
    }
    nsq->sDiff_shp_Q14 = (opus_int32)diff;
    nsq->sLF_AR_shp_Q14 = (opus_int32)lf_ar;
    nsq->rand_seed = (opus_int32)seed;
    keep(nsq, in, &samples);
}

/* With and without a lag. */
AVX2 static void quantize_narrow(silk_nsq_state *nsq, const struct subframe *in) {
    if (in->lag > 0) {
        quantize(nsq, in, 10, 1);
    } else {
        quantize(nsq, in, 10, 0);
    }
}

AVX2 static void quantize_wide(silk_nsq_state *nsq, const struct subframe *in) {
    if (in->lag > 0) {
        quantize(nsq, in, 16, 1);
    } else {
        quantize(nsq, in, 16, 0);
    }
}

/* What libopus's encoder asks for: other orders have paths of more than one decision. */
static int is_ours(const struct subframe *in, int predictLPCOrder) {
    return (predictLPCOrder == 10 || predictLPCOrder == 16) &&
           (in->shapingLPCOrder == 12 || in->shapingLPCOrder == 14) &&
           (in->lag >= SHORTEST_LAG || (in->lag == 0 && !in->voiced)) && in->length >= NSQ_LPC_BUF_LENGTH &&
           in->length <= MAX_SUB_FRAME_LENGTH && in->length % 4 == 0 && in->Lambda_Q10 >= 0 &&
           in->Lambda_Q10 <= LAMBDA_MAX_Q10 && in->offset_Q10 >= 0 && in->offset_Q10 <= OFFSET_MAX_Q10;
}

void silk_noise_shape_quantizer(silk_nsq_state *nsq, opus_int signal_type, const opus_int32 x_sc_Q10[],
                                opus_int8 pulses[], opus_int16 xq[], opus_int32 sLTP_Q15[], const opus_int16 a_Q12[],
                                const opus_int16 b_Q14[], const opus_int16 AR_shp_Q13[], opus_int lag,
                                opus_int32 HarmShapeFIRPacked_Q14, opus_int Tilt_Q14, opus_int32 LF_shp_Q14,
                                opus_int32 Gain_Q16, opus_int Lambda_Q10, opus_int offset_Q10, opus_int length,
                                opus_int shapingLPCOrder, opus_int predictLPCOrder, int arch) {
    const struct subframe in = {
        x_sc_Q10, pulses, xq, sLTP_Q15, a_Q12, b_Q14, AR_shp_Q13, signal_type == TYPE_VOICED, lag,
        HarmShapeFIRPacked_Q14, (opus_int16)Tilt_Q14, LF_shp_Q14, Gain_Q16 >> 6, Lambda_Q10, offset_Q10, length,
        shapingLPCOrder,
    };
    if (libopus_choice == LIBOPUS_PLAIN || !is_ours(&in, predictLPCOrder)) {
        libopus_noise_shape_quantizer(nsq, signal_type, x_sc_Q10, pulses, xq, sLTP_Q15, a_Q12, b_Q14, AR_shp_Q13, lag,
                                      HarmShapeFIRPacked_Q14, Tilt_Q14, LF_shp_Q14, Gain_Q16, Lambda_Q10, offset_Q10,
                                      length, shapingLPCOrder, predictLPCOrder, arch);
        return;
    }
    silk_nsq_state theirs;
    opus_int8 their_pulses[MAX_SUB_FRAME_LENGTH];
    opus_int32 their_sLTP_Q15[2 * MAX_FRAME_LENGTH];
    const int written = nsq->sLTP_buf_idx + length;
    if (libopus_choice == LIBOPUS_COMPARED) {
        theirs = *nsq;
        memcpy(their_sLTP_Q15, sLTP_Q15, sizeof(opus_int32) * (size_t)written);
        /* `xq` is a place in the state. */
        libopus_noise_shape_quantizer(&theirs, signal_type, x_sc_Q10, their_pulses, theirs.xq + (xq - nsq->xq),
                                      their_sLTP_Q15, a_Q12, b_Q14, AR_shp_Q13, lag, HarmShapeFIRPacked_Q14, Tilt_Q14,
                                      LF_shp_Q14, Gain_Q16, Lambda_Q10, offset_Q10, length, shapingLPCOrder,
                                      predictLPCOrder, arch);
    }
    if (predictLPCOrder == 10) {
        quantize_narrow(nsq, &in);
    } else {
        quantize_wide(nsq, &in);
    }
    if (libopus_choice == LIBOPUS_COMPARED) {
        libopus_compared(LIBOPUS_NOISE_SHAPE_QUANTIZER,
                         memcmp(nsq, &theirs, sizeof(theirs)) == 0 && memcmp(pulses, their_pulses, (size_t)length) == 0 &&
                             memcmp(sLTP_Q15, their_sLTP_Q15, sizeof(opus_int32) * (size_t)written) == 0);
    }
}
