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

/* What celt/x86/x86cpu.c calls a processor with AVX2. */
#define ARCH_AVX2 4

/* Samples whose pitch prediction is made at once: none of them may need another one, and the shortest lag is 2 ms at 8 kHz. */
#define BLOCK 8
#define SHORTEST_LAG 16

/* Levels from -LEVELS to LEVELS + 7, and one of them in Q10. */
#define LEVELS 32
#define LEVEL_Q10 1024
/* libopus limits the residual to -31..30 levels; within the tighter of both it need not be looked at. */
#define LOWEST_Q10 (-31 * LEVEL_Q10)
#define HIGHEST_Q10 (30 * LEVEL_Q10)
/* Below it, all pulses are the level's number, and the lower candidate never lies above the residual's level. */
#define OFFSETS_Q10 400
/* From there on libopus favours small levels by another rule. */
#define LAMBDAS_Q10 2048

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

/* All taps of an FIR filter but the two newest, the other way round than usual: each sample that comes is at once multiplied by all
 * coefficients, and the products are added to the results that they belong to. A result leaves when all its samples were there. */
struct filter {
    /* Coefficients of taps 2 to 17 (even and odd ones apart), which are those of the next results' lanes. */
    __m256i even[2], odd[2];
    /* The results that are under way, the next one first. */
    __m256i sums[2];
    /* What a result begins with. */
    __m256i bias;
};

/* The order may be up to 18; of 10 taps or fewer the first half of each is all. */
AVX2_INLINE void filter_begin(struct filter *filter, const opus_int16 *coefficients, int order) {
    opus_int16 padded[18] = {0};
    memcpy(padded, coefficients, 10 * sizeof(opus_int16));
    for (int tap = 10; tap < order; tap++) {
        padded[tap] = coefficients[tap];
    }
    filter->bias = _mm256_set1_epi32(order >> 1);
    for (int half = 0; half < 2; half++) {
        filter->even[half] = _mm256_cvtepi16_epi32(_mm_loadu_si128((const void *)(padded + 2 + 8 * half)));
        filter->odd[half] = _mm256_srli_epi64(filter->even[half], 32);
        filter->sums[half] = filter->bias;
    }
}

/* Takes a sample, and returns what older ones add to the result three samples on. */
AVX2_INLINE opus_uint32 filter_take(struct filter *filter, __m256i sample, int halves) {
    const __m256i next = _mm256_setr_epi32(1, 2, 3, 4, 5, 6, 7, 0);
    for (int half = 0; half < halves; half++) {
        __m256i comes = half + 1 < halves ? filter->sums[half + 1] : filter->bias;
        __m256i moved = _mm256_permutevar8x32_epi32(_mm256_blend_epi32(filter->sums[half], comes, 1), next);
        __m256i products =
            joined(_mm256_mul_epi32(sample, filter->even[half]), _mm256_mul_epi32(sample, filter->odd[half]));
        filter->sums[half] = _mm256_add_epi32(moved, products);
    }
    return (opus_uint32)_mm256_cvtsi256_si32(filter->sums[0]);
}

/* Which level a residual becomes. By its own height it lies on a step, [step]; the lower candidate for it is level_Q14[step], the upper one
 * level_Q14[step + 1], which is taken above threshold_Q10[step]. Steps count from LEVELS. */
struct staircase {
    opus_int32 threshold_Q10[2 * LEVELS + 8];
    opus_int32 level_Q14[2 * LEVELS + 8];
};

/* Values that rise by `rise`, eight at a time. */
AVX2_INLINE void fill_rising(opus_int32 *to, int eights, opus_int32 first, opus_int32 rise) {
    const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    __m256i values = _mm256_add_epi32(_mm256_set1_epi32(first), _mm256_mullo_epi32(lanes, _mm256_set1_epi32(rise)));
    for (int eight = 0; eight < eights; eight++) {
        store_8(to + 8 * eight, values);
        values = _mm256_add_epi32(values, _mm256_set1_epi32(8 * rise));
    }
}

/* The rules for the two candidates and their rate and distortion, solved for the residual from where on the upper one costs less:
 * 2 r (q2 - q1) > q2^2 - q1^2 + Lambda (|q2| - |q1|). [0] is for residuals as they are, [1] for those that the dither turns: the same
 * stairs turned by 180 degrees, whose steps begin one above where they began. */
AVX2_INLINE void build_stairs(struct staircase stairs[2], opus_int32 Lambda_Q10, opus_int32 offset_Q10) {
    const opus_int32 adjust = QUANT_LEVEL_ADJUST_Q10, first = -LEVELS * LEVEL_Q10;
    /* Above its step's beginning, for positive and for negative levels. */
    const opus_int32 positive = offset_Q10 + LEVEL_Q10 / 2 - adjust + (Lambda_Q10 >> 1);
    const opus_int32 negative = offset_Q10 + LEVEL_Q10 / 2 + adjust - ((Lambda_Q10 + 1) >> 1);
    /* Of the two steps around zero, of which one candidate is the offset alone. */
    const opus_int32 up = LEVEL_Q10 - adjust;
    const opus_int32 above_zero = offset_Q10 + up / 2 + (Lambda_Q10 >> 1);
    const opus_int32 product = (up - 2 * offset_Q10) * (up + Lambda_Q10);
    const opus_int32 below_zero = -((product + 2 * up - 1) / (2 * up));

    fill_rising(stairs[0].threshold_Q10, 4, first + negative, LEVEL_Q10);
    fill_rising(stairs[0].threshold_Q10 + LEVELS, 5, positive, LEVEL_Q10);
    stairs[0].threshold_Q10[LEVELS - 1] = below_zero;
    stairs[0].threshold_Q10[LEVELS] = above_zero;
    fill_rising(stairs[0].level_Q14, 4, (first + adjust + offset_Q10) * 16, LEVEL_Q10 * 16);
    fill_rising(stairs[0].level_Q14 + LEVELS, 5, (offset_Q10 - adjust) * 16, LEVEL_Q10 * 16);
    stairs[0].level_Q14[LEVELS] = offset_Q10 * 16;

    fill_rising(stairs[1].threshold_Q10, 4, first - positive - 1, LEVEL_Q10);
    fill_rising(stairs[1].threshold_Q10 + LEVELS, 5, -negative - 1, LEVEL_Q10);
    stairs[1].threshold_Q10[LEVELS] = -above_zero - 1;
    stairs[1].threshold_Q10[LEVELS + 1] = -below_zero - 1;
    fill_rising(stairs[1].level_Q14, 4, (first - up - offset_Q10) * 16, LEVEL_Q10 * 16);
    fill_rising(stairs[1].level_Q14 + LEVELS, 5, (-LEVEL_Q10 - adjust - offset_Q10) * 16, LEVEL_Q10 * 16);
    stairs[1].level_Q14[LEVELS] = (-up - offset_Q10) * 16;
    stairs[1].level_Q14[LEVELS + 1] = -offset_Q10 * 16;
}

/* What the pitch adds to the next samples. */
struct pitch {
    /* LTP_pred_Q13. */
    opus_int32 predicted_Q13[BLOCK];
    /* LTP_pred_Q13 - n_LTP_Q13. */
    opus_int32 sum_Q13[BLOCK];
};

AVX2_INLINE void predict_pitch(struct pitch *pitch, const struct subframe *in, const opus_int32 *pred_lag_ptr,
                               const opus_int32 *shp_lag_ptr) {
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
    store_8(pitch->predicted_Q13, predicted);
    store_8(pitch->sum_Q13, _mm256_sub_epi32(predicted, _mm256_slli_epi32(shaped, 1)));
}

/* silk_SAT16(silk_RSHIFT_ROUND(silk_SMULWW(value, Gain_Q10), 8)) of all. */
AVX2_INLINE void scale_to_speech(opus_int16 *xq, const opus_int32 *xq_Q14, int length, opus_int32 Gain_Q10) {
    const __m256i gain = _mm256_set1_epi32(Gain_Q10), one = _mm256_set1_epi32(1);
    for (int done = 0; done < length; done += 8) {
        /* The last eight may have been partly done already. */
        int at = done + 8 <= length ? done : length - 8;
        __m256i scaled = _mm256_srai_epi32(mul_w_8(load_8(xq_Q14 + at), gain), 7);
        scaled = _mm256_srai_epi32(_mm256_add_epi32(scaled, one), 1);
        __m128i speech = _mm_packs_epi32(_mm256_castsi256_si128(scaled), _mm256_extracti128_si256(scaled, 1));
        _mm_storeu_si128((void *)(xq + at), speech);
    }
}

/* What the next subframe begins with. */
AVX2_INLINE void keep_states(silk_nsq_state *nsq, const struct subframe *in) {
    const int length = in->length;
    const opus_int32 *xq_Q14 = &nsq->sLPC_Q14[NSQ_LPC_BUF_LENGTH];
    for (int at = 0; at < in->shapingLPCOrder; at++) {
        int from = length - 2 - at;
        nsq->sAR2_Q14[at] = (opus_int32)((opus_uint32)xq_Q14[from] - ((opus_uint32)in->x_sc_Q10[from] << 4));
    }
    scale_to_speech(in->xq, xq_Q14, length, in->Gain_Q10);
    nsq->sLTP_shp_buf_idx += length;
    nsq->sLTP_buf_idx += length;
    memcpy(nsq->sLPC_Q14, &nsq->sLPC_Q14[length], NSQ_LPC_BUF_LENGTH * sizeof(opus_int32));
}

/* The residual where it is beyond the limits, which are those of what the dither makes of it. */
__attribute__((noinline, cold)) static opus_int32 limited(opus_int32 r_Q10, opus_int32 turned) {
    return turned ? silk_LIMIT_32(r_Q10, -HIGHEST_Q10, -LOWEST_Q10) : silk_LIMIT_32(r_Q10, LOWEST_Q10, HIGHEST_Q10);
}

/* `predictLPCOrder` and `has_lag` are known where this is called, so that each pair of them has code of its own. */
AVX2_INLINE void quantize(silk_nsq_state *nsq, const struct subframe *in, int predictLPCOrder, int has_lag) {
    const int predicting_halves = predictLPCOrder > 10 ? 2 : 1, shaping_halves = 2;
    opus_int32 *xq_Q14 = &nsq->sLPC_Q14[NSQ_LPC_BUF_LENGTH];
    opus_int32 *shp_Q14 = &nsq->sLTP_shp_Q14[nsq->sLTP_shp_buf_idx];
    opus_int32 *exc_Q15 = &in->sLTP_Q15[nsq->sLTP_buf_idx];
    const opus_int64 a0 = in->a_Q12[0], a1 = in->a_Q12[1], c0 = in->AR_shp_Q13[0], c1 = in->AR_shp_Q13[1];
    const opus_int64 tilt = in->Tilt_Q14, lf_low = (opus_int16)in->LF_shp_Q14, lf_high = in->LF_shp_Q14 >> 16;
    struct staircase stairs[2];
    struct pitch pitch;
    struct filter predicting, shaping;

    build_stairs(stairs, in->Lambda_Q10, in->offset_Q10);
    filter_begin(&predicting, in->a_Q12, predictLPCOrder);
    filter_begin(&shaping, in->AR_shp_Q13, in->shapingLPCOrder);

    /* Of the older samples: what they add to the first result, and to the second one. */
    opus_uint32 older_pred = 0, older_ar = 0, coming_pred = 0, coming_ar = 0;
    for (int back = predictLPCOrder; back >= 2; back--) {
        older_pred = coming_pred;
        coming_pred = filter_take(&predicting, _mm256_set1_epi32(xq_Q14[-back]), predicting_halves);
    }
    for (int back = in->shapingLPCOrder; back >= 2; back--) {
        older_ar = coming_ar;
        coming_ar = filter_take(&shaping, _mm256_set1_epi32(nsq->sAR2_Q14[back - 2]), shaping_halves);
    }
    older_pred += mul_w((opus_uint32)xq_Q14[-2], a1);
    older_ar += mul_w((opus_uint32)nsq->sAR2_Q14[0], c1);

    /* Of the sample before: xq_Q14, sDiff_shp_Q14, sLF_AR_shp_Q14 and the newest of sLTP_shp_Q14. */
    opus_uint32 xq = (opus_uint32)xq_Q14[-1], diff = (opus_uint32)nsq->sDiff_shp_Q14;
    opus_uint32 lf_ar = (opus_uint32)nsq->sLF_AR_shp_Q14, shp = (opus_uint32)shp_Q14[-1];
    opus_uint32 seed = (opus_uint32)nsq->rand_seed;

    for (int at = 0; at < in->length; at++) {
        opus_uint32 ltp_Q13 = 0, pitch_Q13 = 0;
        if (has_lag) {
            if (at % BLOCK == 0) {
                predict_pitch(&pitch, in, exc_Q15 + at - in->lag + LTP_ORDER / 2,
                              shp_Q14 + at - in->lag + HARM_SHAPE_FIR_TAPS / 2);
            }
            ltp_Q13 = (opus_uint32)pitch.predicted_Q13[at % BLOCK];
            pitch_Q13 = (opus_uint32)pitch.sum_Q13[at % BLOCK];
        }

        /* -1 where the dither turns the residual, and what turns with it. */
        seed = (opus_uint32)silk_RAND(seed);
        opus_int32 turned = (opus_int32)seed >> 31;
        const struct staircase *stair = stairs - turned;
        opus_int64 step_offset = turned ? in->offset_Q10 + LEVEL_Q10 - 1 : -in->offset_Q10;

        opus_uint32 pred_Q10 = older_pred + mul_w(xq, a0);
        opus_uint32 ar_Q12 = 2 * (older_ar + mul_w(diff, c0)) + mul_w(lf_ar, tilt);
        opus_uint32 lf_Q12 = mul_w(lf_ar, lf_high) + mul_w(shp, lf_low);

        /* x_sc_Q10 less the rounded sum; with a lag that sum has one more bit, and wraps one bit earlier. */
        opus_int64 x_Q10 = in->x_sc_Q10[at];
        opus_uint32 sum_Q12 = 4 * pred_Q10 - ar_Q12 - lf_Q12;
        opus_int64 r_Q13 = has_lag ? 8 * x_Q10 + 3 - (opus_int32)(2 * sum_Q12 + pitch_Q13)
                                   : 8 * x_Q10 + 3 - 2 * (opus_int64)(opus_int32)sum_Q12;
        opus_int32 r_Q10 = (opus_int32)(r_Q13 >> 3);
        opus_int64 step = (r_Q13 + 8 * step_offset) >> 13;
        if (__builtin_expect(r_Q10 < -HIGHEST_Q10 || r_Q10 > HIGHEST_Q10, 0)) {
            r_Q10 = limited(r_Q10, turned);
            step = (r_Q10 + step_offset) >> 10;
        }
        int upper = r_Q10 > stair->threshold_Q10[step + LEVELS];
        opus_uint32 exc_Q14 = (opus_uint32)stair->level_Q14[step + LEVELS + upper];

        /* The filters are given what they need for the sample after the next one. */
        opus_uint32 older_xq = xq, older_diff = diff;
        opus_uint32 base_Q14 = 2 * ltp_Q13 + 16 * pred_Q10;
        opus_uint32 diff_base = base_Q14 - 16 * (opus_uint32)x_Q10, lf_ar_base = diff_base - 4 * ar_Q12;
        xq = base_Q14 + exc_Q14;
        diff = diff_base + exc_Q14;
        lf_ar = lf_ar_base + exc_Q14;
        shp = lf_ar_base - 4 * lf_Q12 + exc_Q14;
        older_pred = coming_pred + mul_w(older_xq, a1);
        older_ar = coming_ar + mul_w(older_diff, c1);
        coming_pred = filter_take(&predicting, _mm256_set1_epi32((opus_int32)older_xq), predicting_halves);
        coming_ar = filter_take(&shaping, _mm256_set1_epi32((opus_int32)older_diff), shaping_halves);

        /* The turned stairs' level [1] is the one of no pulse. */
        opus_int32 pulse = (((opus_int32)step + upper) ^ turned) - 2 * turned;
        in->pulses[at] = (opus_int8)pulse;
        seed += (opus_uint32)pulse;
        xq_Q14[at] = (opus_int32)xq;
        shp_Q14[at] = (opus_int32)shp;
        exc_Q15[at] = (opus_int32)(2 * (2 * ltp_Q13 + exc_Q14));
    }
    nsq->sDiff_shp_Q14 = (opus_int32)diff;
    nsq->sLF_AR_shp_Q14 = (opus_int32)lf_ar;
    nsq->rand_seed = (opus_int32)seed;
    keep_states(nsq, in);
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
static int is_ours(const struct subframe *in, int predictLPCOrder, int arch) {
    return arch >= ARCH_AVX2 && (predictLPCOrder == 10 || predictLPCOrder == 16) &&
           (in->shapingLPCOrder == 12 || in->shapingLPCOrder == 14) &&
           (in->lag >= SHORTEST_LAG || (in->lag == 0 && !in->voiced)) && in->length >= NSQ_LPC_BUF_LENGTH &&
           in->length <= MAX_SUB_FRAME_LENGTH && in->length % 4 == 0 && in->Lambda_Q10 >= 0 &&
           in->Lambda_Q10 <= LAMBDAS_Q10 && in->offset_Q10 >= 0 && in->offset_Q10 <= OFFSETS_Q10;
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
    if (libopus_choice == LIBOPUS_PLAIN || !is_ours(&in, predictLPCOrder, arch)) {
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
