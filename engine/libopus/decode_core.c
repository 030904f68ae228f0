/* silk_decode_core (RFC 6716 §4.2.7.7 to §4.2.7.9): from pulses, gains, lags and coefficients to sound. To the bit what libopus makes.
 *
 * Why ours: it is half of libopus's decoder, and its time is one chain: each sample needs the 16 before it, so compilers have nothing to do
 * side by side. Three things loosen it:
 *  - Of the short-term prediction only the newest three samples are multiplied in the chain. Each older one is added, as soon as it is known,
 *    to the sums of all the samples that it will ever help to predict (`struct sums`). Products are rounded one by one and summed modulo 2^32,
 *    so their order is free.
 *  - Nothing saturates in the chain: speech never does. What would have is noticed afterwards (`scale_output`), and the subframe done again.
 *  - All else has no such chain, and goes eight samples at a time: excitation (its random signs in closed form), long-term prediction (no lag is
 *    shorter than eight samples and the filter's two), whitening and gains.
 */
#include "config.h"
#include "main.h"
#include "own.h"

#include <immintrin.h>
#include <string.h>

void libopus_decode_core(silk_decoder_state *decoder, silk_decoder_control *control, opus_int16 xq[],
                         const opus_int16 pulses[MAX_FRAME_LENGTH], int arch);

#define WITH_AVX2 __attribute__((target("avx2")))
#define INLINED static inline __attribute__((always_inline)) WITH_AVX2

enum {
    LANES = 8,
    /* Outputs of `rewhiten` at a time. */
    WHITE_LANES = 16,
    /* The newest samples, which the chain multiplies itself. */
    CHAIN_TAPS = 3,
    /* Samples of a turn of the chain; every subframe is some of them (40, 60 or 80 samples). */
    TURN = 4,
    /* Vectors of sums: a sample predicts those up to 16 places on, and in a turn there are four of it. */
    SUMS = 4,
    /* Long-term prediction reaches so far beyond the lag. */
    LTP_REACH = LTP_ORDER / 2,
    /* The shortest lag of any rate is 2 ms, at 8 kHz. */
    LAG_MIN = 16,
};

/* The generator of signs, and its multiplier's powers (RFC 6716 §4.2.7.8.6). */
#define LCG_STEP 907633515u
#define LCG_1 196314165u
#define LCG_2 (LCG_1 * LCG_1)
#define LCG_3 (LCG_2 * LCG_1)
#define LCG_4 (LCG_2 * LCG_2)
#define LCG_5 (LCG_4 * LCG_1)
#define LCG_6 (LCG_4 * LCG_2)
#define LCG_7 (LCG_4 * LCG_3)
#define LCG_8 (LCG_4 * LCG_4)

INLINED __m256i load(const void *from) {
    return _mm256_loadu_si256((const __m256i *)from);
}

INLINED void store(void *to, __m256i value) {
    _mm256_storeu_si256((__m256i *)to, value);
}

/* (x * factor) >> 16 in each lane, modulo 2^32. */
INLINED __m256i scaled_Q16(__m256i x, __m256i factor) {
    __m256i even = _mm256_mul_epi32(x, factor);
    __m256i odd = _mm256_mul_epi32(_mm256_srli_epi64(x, 32), factor);
    return _mm256_blend_epi32(_mm256_srli_epi64(even, 16), _mm256_slli_epi64(odd, 16), 0xaa);
}

/* The excitation with its signs. A sign is the top bit of a seed, which each pulse goes into: seed' = seed * LCG_1 + LCG_STEP + pulse. Eight
 * of them are a sum over the pulses so far and the seed, each times a power of the multiplier: doubling the span thrice makes it. */
WITH_AVX2 static void decode_excitation(opus_int32 e_Q14[], const opus_int16 pulses[], int length, opus_int32 offset_Q14,
                                        opus_uint32 seed) {
    const __m256i upper = _mm256_setr_epi32(0, 0, 0, 0, (int)LCG_1, (int)LCG_2, (int)LCG_3, (int)LCG_4);
    const __m256i powers = _mm256_setr_epi32((int)LCG_1, (int)LCG_2, (int)LCG_3, (int)LCG_4, (int)LCG_5, (int)LCG_6,
                                             (int)LCG_7, (int)LCG_8);
    for (int i = 0; i < length; i += LANES) {
        __m256i pulse = _mm256_cvtepi16_epi32(_mm_loadu_si128((const __m128i *)(const void *)(pulses + i)));
        __m256i sum = _mm256_add_epi32(pulse, _mm256_set1_epi32((int)LCG_STEP));
        sum = _mm256_add_epi32(sum, _mm256_mullo_epi32(_mm256_slli_si256(sum, 4), _mm256_set1_epi32((int)LCG_1)));
        sum = _mm256_add_epi32(sum, _mm256_mullo_epi32(_mm256_slli_si256(sum, 8), _mm256_set1_epi32((int)LCG_2)));
        __m256i fourth = _mm256_permutevar8x32_epi32(sum, _mm256_set1_epi32(3));
        sum = _mm256_add_epi32(sum, _mm256_mullo_epi32(fourth, upper));
        __m256i seeds = _mm256_add_epi32(sum, _mm256_mullo_epi32(_mm256_set1_epi32((int)seed), powers));
        seed = seed * LCG_8 + (opus_uint32)_mm256_extract_epi32(sum, 7);

        /* The sign is drawn before the pulse goes in. */
        __m256i negative = _mm256_srai_epi32(_mm256_sub_epi32(seeds, pulse), 31);
        __m256i adjustment = _mm256_sign_epi32(_mm256_set1_epi32(QUANT_LEVEL_ADJUST_Q10 << 4), pulse);
        __m256i e = _mm256_sub_epi32(_mm256_slli_epi32(pulse, 14), adjustment);
        e = _mm256_add_epi32(e, _mm256_set1_epi32(offset_Q14));
        store(e_Q14 + i, _mm256_sub_epi32(_mm256_xor_si256(e, negative), negative));
    }
}

/* What the last so many samples lack of their short-term prediction, times the gain: of `in`, with `order` samples before it. At least
 * WHITE_LANES; the last of them are made twice where they do not fill the lanes. Even and odd samples are made apart, since the
 * multiplication adds neighbours. */
WITH_AVX2 static void rewhiten(opus_int32 ltp_Q15[], const opus_int16 in[], int count, const opus_int16 a_Q12[], int order,
                               opus_int32 gain) {
    __m256i pairs[MAX_LPC_ORDER / 2];
    for (int t = 0; t < order / 2; t++) {
        opus_uint32 newer = (opus_uint16)a_Q12[2 * t], older = (opus_uint16)a_Q12[2 * t + 1];
        pairs[t] = _mm256_set1_epi32((int)(newer << 16 | older));
    }
    for (int i = 0; i < count; i += WHITE_LANES) {
        if (i > count - WHITE_LANES) {
            i = count - WHITE_LANES;
        }
        __m256i x = load(in + i);
        __m256i even = _mm256_srai_epi32(_mm256_slli_epi32(x, 16), 4);
        __m256i odd = _mm256_srai_epi32(_mm256_and_si256(x, _mm256_set1_epi32(-65536)), 4);
        for (int t = 0; t < order / 2; t++) {
            even = _mm256_sub_epi32(even, _mm256_madd_epi16(load(in + i - 2 * t - 2), pairs[t]));
            odd = _mm256_sub_epi32(odd, _mm256_madd_epi16(load(in + i - 2 * t - 1), pairs[t]));
        }
        const __m256i one = _mm256_set1_epi32(1);
        even = _mm256_srai_epi32(_mm256_add_epi32(_mm256_srai_epi32(even, 11), one), 1);
        odd = _mm256_srai_epi32(_mm256_add_epi32(_mm256_srai_epi32(odd, 11), one), 1);
        __m256i white = _mm256_packs_epi32(_mm256_unpacklo_epi32(even, odd), _mm256_unpackhi_epi32(even, odd));
        __m256i first = _mm256_cvtepi16_epi32(_mm256_castsi256_si128(white));
        __m256i second = _mm256_cvtepi16_epi32(_mm256_extracti128_si256(white, 1));
        store(ltp_Q15 + i, scaled_Q16(first, _mm256_set1_epi32(gain)));
        store(ltp_Q15 + i + LANES, scaled_Q16(second, _mm256_set1_epi32(gain)));
    }
}

/* May scale up to seven more. */
WITH_AVX2 static void scale(opus_int32 x[], int count, opus_int32 gain_Q16) {
    for (int i = 0; i < count; i += LANES) {
        store(x + i, scaled_Q16(load(x + i), _mm256_set1_epi32(gain_Q16)));
    }
}

/* Long-term prediction: the residual, and at `ltp_Q15` what later ones are predicted from. May do up to seven samples more. Products are
 * of every second lane and lie in the upper half of two: hence even and odd samples apart, and coefficients shifted up by 16. */
WITH_AVX2 static void predict_long_term(opus_int32 res_Q14[], opus_int32 ltp_Q15[], const opus_int32 e_Q14[], int length,
                                        int lag, const opus_int16 b_Q14[LTP_ORDER]) {
    __m256i b[LTP_ORDER];
    for (int j = 0; j < LTP_ORDER; j++) {
        b[j] = _mm256_set1_epi32(b_Q14[j] * 65536);
    }
    for (int i = 0; i < length; i += LANES) {
        const opus_int32 *newest = ltp_Q15 + i - lag + LTP_REACH;
        /* What is added so that rounding down has no bias. */
        __m256i even = _mm256_set1_epi32(2), odd = even;
        for (int j = 0; j < LTP_ORDER; j++) {
            even = _mm256_add_epi32(even, _mm256_mul_epi32(load(newest - j), b[j]));
            odd = _mm256_add_epi32(odd, _mm256_mul_epi32(load(newest - j + 1), b[j]));
        }
        __m256i prediction = _mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xaa);
        __m256i res = _mm256_add_epi32(load(e_Q14 + i), _mm256_slli_epi32(prediction, 1));
        store(res_Q14 + i, res);
        store(ltp_Q15 + i, _mm256_slli_epi32(res, 1));
    }
}

/* What samples that are known give to those to come, in the upper halves of 64 bits: four to the next turn of the chain, four to the one after
 * it, and so on. Samples of order 10 reach a vector less far. */
struct sums {
    __m256i next, second, third, fourth;
};

/* Coefficients in the places where the sums need them: for each sample of a turn those of the older taps, zero elsewhere. */
struct taps {
    __m256i of[TURN][SUMS];
    opus_int64 chain[CHAIN_TAPS];
};

WITH_AVX2 static void spread_coefficients(struct taps *taps, const opus_int16 a_Q12[], int order) {
    /* By how far back they reach. */
    opus_int64 a[TURN * SUMS + TURN] = {0};
    for (int t = CHAIN_TAPS + 1; t <= order; t++) {
        a[t] = a_Q12[t - 1] * 65536;
    }
    for (int j = 0; j < TURN; j++) {
        for (int v = 0; v < SUMS; v++) {
            taps->of[j][v] = load(a + TURN * (v + 1) - j);
        }
    }
    for (int t = 0; t < CHAIN_TAPS; t++) {
        taps->chain[t] = a_Q12[t];
    }
}

/* Adds the sample to the sums, but for the first so many vectors of them. */
INLINED void contribute(struct sums *sums, opus_int32 sample, const __m256i taps[SUMS], int but, int order) {
    __m256i y = _mm256_set1_epi32(sample);
    if (but < 1) {
        sums->next = _mm256_add_epi32(sums->next, _mm256_mul_epi32(y, taps[0]));
    }
    if (but < 2) {
        sums->second = _mm256_add_epi32(sums->second, _mm256_mul_epi32(y, taps[1]));
    }
    if (but < 3) {
        sums->third = _mm256_add_epi32(sums->third, _mm256_mul_epi32(y, taps[2]));
    }
    if (order == MAX_LPC_ORDER) {
        sums->fourth = _mm256_add_epi32(sums->fourth, _mm256_mul_epi32(y, taps[3]));
    }
}

/* A turn is over. New sums begin with what makes up for rounding down. */
INLINED void advance(struct sums *sums, int order) {
    const __m256i none = _mm256_set1_epi64x((opus_int64)(order / 2) << 32);
    sums->next = sums->second;
    sums->second = sums->third;
    sums->third = order == MAX_LPC_ORDER ? sums->fourth : none;
    sums->fourth = none;
}

static inline opus_int64 times_Q16(opus_int64 y, opus_int64 a) {
    return (opus_int64)((opus_uint64)y * (opus_uint64)a) >> 16;
}

/* The sums of the samples before a subframe, which lie before `y`: those that reach into it. */
INLINED struct sums begin(const opus_int32 y[], const struct taps *taps, int order) {
    struct sums sums;
    sums.next = sums.second = sums.third = sums.fourth = _mm256_set1_epi64x((opus_int64)(order / 2) << 32);
    if (order == MAX_LPC_ORDER) {
        for (int j = 0; j < TURN; j++) {
            contribute(&sums, y[-16 + j], taps->of[j], 3, order);
        }
        advance(&sums, order);
    }
    for (int j = 0; j < TURN; j++) {
        contribute(&sums, y[-12 + j], taps->of[j], 2, order);
    }
    advance(&sums, order);
    for (int j = 0; j < TURN; j++) {
        contribute(&sums, y[-8 + j], taps->of[j], 1, order);
    }
    advance(&sums, order);
    for (int j = 0; j < TURN; j++) {
        contribute(&sums, y[-4 + j], taps->of[j], 0, order);
    }
    return sums;
}

/* The chain of short-term prediction. 64 bits hold what does not fit 32 long enough to be noticed. */
struct chain {
    opus_int64 a1, a2, a3;
    /* The newest samples. */
    opus_int64 y1, y2, y3;
    /* Every bit that any prediction had, raised so that one that fits has none from 28 on. */
    opus_uint64 seen;
    struct sums sums;
    /* Of the next turn, as they were when the sample four places before had been added. */
    opus_int32 ready[TURN][LANES];
};

/* One sample, the turn's `place`th. */
INLINED void predict(struct chain *chain, const struct taps *taps, opus_int32 *y, opus_int32 res_Q14, int place, int order) {
    opus_int64 older = chain->ready[place][2 * place + 1] + times_Q16(chain->y2, chain->a2) + times_Q16(chain->y3, chain->a3);
    opus_int64 before = res_Q14 + older * 16;
    /* Keeps compilers from adding the newest product, which is late, to the sum before the shift: one step more in the chain. */
    __asm__("" : "+r"(before));
    opus_int64 newest = times_Q16(chain->y1, chain->a1);
    opus_int64 sample = before + newest * 16;
    chain->seen |= (opus_uint64)(older + newest) + (1u << 27);
    *y = (opus_int32)sample;
    chain->y3 = chain->y2;
    chain->y2 = chain->y1;
    chain->y1 = sample;
    contribute(&chain->sums, (opus_int32)sample, taps->of[place], 0, order);
    store(chain->ready[place], chain->sums.next);
}

/* Short-term prediction, as long as nothing saturates: otherwise it answers false, or `scale_output` will. Before `y` lie the samples that
 * came before. */
INLINED int synthesise(opus_int32 y[], const opus_int32 res_Q14[], int length, const struct taps *taps, int order) {
    struct chain chain = {.a1 = taps->chain[0], .a2 = taps->chain[1], .a3 = taps->chain[2]};
    chain.y1 = y[-1];
    chain.y2 = y[-2];
    chain.y3 = y[-3];
    chain.sums = begin(y, taps, order);
    for (int place = 0; place < TURN; place++) {
        store(chain.ready[place], chain.sums.next);
    }
    advance(&chain.sums, order);
    for (int i = 0; i < length; i += TURN) {
        predict(&chain, taps, y + i, res_Q14[i], 0, order);
        predict(&chain, taps, y + i + 1, res_Q14[i + 1], 1, order);
        predict(&chain, taps, y + i + 2, res_Q14[i + 2], 2, order);
        predict(&chain, taps, y + i + 3, res_Q14[i + 3], 3, order);
        advance(&chain.sums, order);
    }
    return chain.seen >> 28 == 0;
}

/* The same where something saturates. */
static void synthesise_saturated(opus_int32 y[], const opus_int32 res_Q14[], int length, const opus_int16 a_Q12[], int order) {
    for (int i = 0; i < length; i++) {
        opus_uint32 sum = (opus_uint32)(order / 2);
        for (int t = 0; t < order; t++) {
            sum += (opus_uint32)times_Q16(y[i - 1 - t], a_Q12[t]);
        }
        opus_int64 prediction = silk_LIMIT((opus_int32)sum, silk_int32_MIN >> 4, silk_int32_MAX >> 4);
        opus_int64 sample = res_Q14[i] + prediction * 16;
        y[i] = (opus_int32)silk_LIMIT(sample, silk_int32_MIN, silk_int32_MAX);
    }
}

/* The sound, by the gain: rounded and cut to 16 bits. False where the addition of residual and prediction went over 32 bits, the prediction
 * having had room: where the sum has neither's sign. */
WITH_AVX2 static int scale_output(opus_int16 xq[], const opus_int32 y[], const opus_int32 res_Q14[], int length,
                                  opus_int32 gain_Q10) {
    __m256i seen = _mm256_setzero_si256();
    for (int i = 0; i < length; i += LANES) {
        __m256i sample = load(y + i), res = load(res_Q14 + i);
        __m256i prediction = _mm256_sub_epi32(sample, res);
        seen = _mm256_or_si256(
            seen, _mm256_and_si256(_mm256_xor_si256(sample, res), _mm256_xor_si256(sample, prediction)));
        __m256i scaled = _mm256_srai_epi32(scaled_Q16(sample, _mm256_set1_epi32(gain_Q10)), 7);
        __m256i rounded = _mm256_srai_epi32(_mm256_add_epi32(scaled, _mm256_set1_epi32(1)), 1);
        __m128i out = _mm_packs_epi32(_mm256_castsi256_si128(rounded), _mm256_extracti128_si256(rounded, 1));
        if (length - i >= LANES) {
            _mm_storeu_si128((__m128i *)(void *)(xq + i), out);
        } else {
            _mm_storel_epi64((__m128i *)(void *)(xq + i), out);
        }
    }
    return _mm256_movemask_ps(_mm256_castsi256_ps(seen)) == 0;
}

/* A frame on its way from pulses to sound. What goes eight at a time may look at, and leave something in, as many places beyond its end. */
struct frame {
    silk_decoder_state *decoder;
    silk_decoder_control *control;
    opus_int16 *xq;
    /* Of this subframe: what its gain is of the last one's. */
    opus_int32 gain_change_Q16;
    /* Where in `ltp_Q15` it begins. */
    int ltp_place;
    struct taps taps;
    opus_int32 y[MAX_LPC_ORDER + MAX_SUB_FRAME_LENGTH + LANES];
    opus_int32 res_Q14[MAX_SUB_FRAME_LENGTH + LANES];
    /* The residual that long-term prediction looks back at. */
    opus_int32 ltp_Q15[2 * MAX_FRAME_LENGTH + LANES];
};

/* The first voiced concealment may be followed by an unvoiced frame: its first half is still predicted from the pitch, a little. */
static int is_transition(const silk_decoder_state *decoder, int subframe) {
    return decoder->lossCnt && decoder->prevSignalType == TYPE_VOICED && decoder->indices.signalType != TYPE_VOICED &&
           subframe < MAX_NB_SUBFR / 2;
}

/* What long-term prediction looks back at, in this subframe's gain: where coefficients are new, made from the sound so far. */
static void refresh_history(struct frame *frame, int subframe, int lag) {
    silk_decoder_state *decoder = frame->decoder;
    const silk_decoder_control *control = frame->control;
    int count = lag + LTP_REACH;
    opus_int32 *history = frame->ltp_Q15 + frame->ltp_place - count;
    int is_interpolated = decoder->indices.NLSFInterpCoef_Q2 < 4;
    if (subframe != 0 && !(subframe == 2 && is_interpolated)) {
        if (frame->gain_change_Q16 != 1 << 16) {
            scale(history, count, frame->gain_change_Q16);
        }
        return;
    }
    const opus_int16 *end = decoder->outBuf + decoder->ltp_mem_length + subframe * decoder->subfr_length;
    opus_int32 gain = silk_INVERSE32_varQ(control->Gains_Q16[subframe], 47);
    if (subframe == 0) {
        gain = silk_LSHIFT(silk_SMULWB(gain, control->LTP_scale_Q14), 2);
    } else {
        memcpy(decoder->outBuf + decoder->ltp_mem_length, frame->xq, 2 * decoder->subfr_length * sizeof(opus_int16));
    }
    rewhiten(history, end - count, count, control->PredCoef_Q12[subframe / 2], decoder->LPC_order, gain);
}

/* The subframe's excitation, with the long-term prediction where it has one. */
static const opus_int32 *residual(struct frame *frame, int subframe) {
    const silk_decoder_state *decoder = frame->decoder;
    silk_decoder_control *control = frame->control;
    const opus_int32 *e_Q14 = decoder->exc_Q14 + subframe * decoder->subfr_length;
    opus_int16 *b_Q14 = control->LTPCoef_Q14 + subframe * LTP_ORDER;
    if (is_transition(decoder, subframe)) {
        memset(b_Q14, 0, LTP_ORDER * sizeof(opus_int16));
        b_Q14[LTP_ORDER / 2] = SILK_FIX_CONST(0.25, 14);
        control->pitchL[subframe] = decoder->lagPrev;
    } else if (decoder->indices.signalType != TYPE_VOICED) {
        return e_Q14;
    }
    int lag = control->pitchL[subframe];
    refresh_history(frame, subframe, lag);
    predict_long_term(frame->res_Q14, frame->ltp_Q15 + frame->ltp_place, e_Q14, decoder->subfr_length, lag, b_Q14);
    frame->ltp_place += decoder->subfr_length;
    return frame->res_Q14;
}

WITH_AVX2 static int synthesise_wide(opus_int32 y[], const opus_int32 res_Q14[], int length, const struct taps *taps) {
    return synthesise(y, res_Q14, length, taps, MAX_LPC_ORDER);
}

WITH_AVX2 static int synthesise_narrow(opus_int32 y[], const opus_int32 res_Q14[], int length, const struct taps *taps) {
    return synthesise(y, res_Q14, length, taps, MIN_LPC_ORDER);
}

/* Whether nothing saturated. */
static int decode_subframe(struct frame *frame, int subframe) {
    silk_decoder_state *decoder = frame->decoder;
    const opus_int16 *a_Q12 = frame->control->PredCoef_Q12[subframe / 2];
    opus_int32 gain_Q16 = frame->control->Gains_Q16[subframe];
    int order = decoder->LPC_order, length = decoder->subfr_length;

    frame->gain_change_Q16 = 1 << 16;
    if (gain_Q16 != decoder->prev_gain_Q16) {
        frame->gain_change_Q16 = silk_DIV32_varQ(decoder->prev_gain_Q16, gain_Q16, 16);
        scale(frame->y, MAX_LPC_ORDER, frame->gain_change_Q16);
    }
    decoder->prev_gain_Q16 = gain_Q16;
    const opus_int32 *res_Q14 = residual(frame, subframe);

    if (subframe % 2 == 0) {
        spread_coefficients(&frame->taps, a_Q12, order);
    }
    opus_int32 *y = frame->y + MAX_LPC_ORDER;
    opus_int16 *xq = frame->xq + subframe * length;
    int is_exact = order == MAX_LPC_ORDER ? synthesise_wide(y, res_Q14, length, &frame->taps)
                                          : synthesise_narrow(y, res_Q14, length, &frame->taps);
    memset(y + length, 0, LANES * sizeof(y[0]));
    is_exact &= scale_output(xq, y, res_Q14, length, gain_Q16 >> 6);
    if (!is_exact) {
        synthesise_saturated(y, res_Q14, length, a_Q12, order);
        scale_output(xq, y, res_Q14, length, gain_Q16 >> 6);
    }
    memmove(frame->y, frame->y + length, MAX_LPC_ORDER * sizeof(frame->y[0]));
    return is_exact;
}

/* Whether nothing saturated. */
static int decode_frame(silk_decoder_state *decoder, silk_decoder_control *control, opus_int16 xq[],
                        const opus_int16 pulses[]) {
    const SideInfoIndices *indices = &decoder->indices;
    opus_int32 offset_Q10 = silk_Quantization_Offsets_Q10[indices->signalType >> 1][indices->quantOffsetType];
    decode_excitation(decoder->exc_Q14, pulses, decoder->frame_length, offset_Q10 * 16, (opus_uint32)indices->Seed);

    struct frame frame;
    frame.decoder = decoder;
    frame.control = control;
    frame.xq = xq;
    frame.ltp_place = decoder->ltp_mem_length;
    memcpy(frame.y, decoder->sLPC_Q14_buf, sizeof(decoder->sLPC_Q14_buf));
    int is_exact = 1;
    for (int subframe = 0; subframe < decoder->nb_subfr; subframe++) {
        is_exact &= decode_subframe(&frame, subframe);
    }
    memcpy(decoder->sLPC_Q14_buf, frame.y, sizeof(decoder->sLPC_Q14_buf));
    return is_exact;
}

/* Whether a frame is of a shape, and its lags of a length, that eight at a time can be. All that silk_decode_frame asks for is. */
static int is_usual(const silk_decoder_state *decoder, const silk_decoder_control *control) {
    int order = decoder->LPC_order;
    if ((order != MIN_LPC_ORDER && order != MAX_LPC_ORDER) || decoder->subfr_length % TURN != 0 ||
        decoder->frame_length % LANES != 0) {
        return 0;
    }
    int lag_max = decoder->ltp_mem_length - order - LTP_REACH - 1;
    for (int subframe = 0; subframe < decoder->nb_subfr; subframe++) {
        int is_voiced = decoder->indices.signalType == TYPE_VOICED || is_transition(decoder, subframe);
        int lag = is_transition(decoder, subframe) ? decoder->lagPrev : control->pitchL[subframe];
        if (is_voiced && (lag < LAG_MIN || lag > lag_max)) {
            return 0;
        }
    }
    return 1;
}

static void decode_compared(silk_decoder_state *decoder, silk_decoder_control *control, opus_int16 xq[],
                            const opus_int16 pulses[], int arch) {
    silk_decoder_state theirs;
    silk_decoder_control their_control;
    opus_int16 their_xq[MAX_FRAME_LENGTH];
    memcpy(&theirs, decoder, sizeof(theirs));
    memcpy(&their_control, control, sizeof(their_control));
    libopus_decode_core(&theirs, &their_control, their_xq, pulses, arch);
    int is_exact = decode_frame(decoder, control, xq, pulses);
    libopus_compared(is_exact ? LIBOPUS_DECODE_CORE : LIBOPUS_DECODE_CORE_SATURATED,
                     memcmp(&theirs, decoder, sizeof(theirs)) == 0 &&
                         memcmp(&their_control, control, sizeof(their_control)) == 0 &&
                         memcmp(their_xq, xq, decoder->frame_length * sizeof(xq[0])) == 0);
}

void silk_decode_core(silk_decoder_state *decoder, silk_decoder_control *control, opus_int16 xq[],
                      const opus_int16 pulses[MAX_FRAME_LENGTH], int arch) {
    if (libopus_choice == LIBOPUS_PLAIN || !is_usual(decoder, control)) {
        libopus_decode_core(decoder, control, xq, pulses, arch);
    } else if (libopus_choice == LIBOPUS_COMPARED) {
        decode_compared(decoder, control, xq, pulses, arch);
    } else {
        decode_frame(decoder, control, xq, pulses);
    }
}
