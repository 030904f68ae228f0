/* silk_decode_pulses (RFC 6716 §4.2.7.8): how many pulses a frame has, where, and their signs. To the bit what libopus makes.
 *
 * Why ours: two hundred symbols a frame, most of two or three values that no processor can foresee. libopus looks for each by a loop and keeps the
 * range decoder in memory. Here it stays in registers, and symbols of up to three values are found without a branch. */
#include "config.h"
#include "main.h"
#include "mfrngcod.h"
#include "own.h"

#include <string.h>

void libopus_decode_pulses(ec_dec *decoder, opus_int16 pulses[], const opus_int signalType, const opus_int quantOffsetType,
                           const opus_int frame_length);

#define INLINED static inline __attribute__((always_inline))

enum {
    BLOCK = SHELL_CODEC_FRAME_LENGTH,
    /* All probabilities here are of 256. */
    FTB = 8,
    /* Splits of so many pulses have a symbol of up to three values. */
    FEW = 2,
    LEVELS = 4,
    LSB_MAX = 10,
    /* Where the number of less significant bits stands, besides the sum. */
    LSB_SHIFT = 5,
    /* Signs of blocks with so many pulses or more share a probability. */
    SIGN_CLASSES = 6,
};

/* The range decoder (RFC 6716 §4.1), as long as this file has it. */
struct range {
    opus_uint32 rng, val;
    const unsigned char *buf;
    opus_uint32 offs, storage;
    int rem, bits;
};

/* The first two values' cumulative probabilities of splits of few pulses; of none the first one is certain. */
static unsigned char few[LEVELS][FEW + 1][2];
static const unsigned char *const tables[LEVELS] = {silk_shell_code_table0, silk_shell_code_table1, silk_shell_code_table2,
                                                    silk_shell_code_table3};

__attribute__((constructor)) static void gather(void) {
    for (int level = 0; level < LEVELS; level++) {
        for (int pulses = 1; pulses <= FEW; pulses++) {
            memcpy(few[level][pulses], tables[level] + silk_shell_code_table_offsets[pulses], 2);
        }
    }
}

INLINED void normalize(struct range *range) {
    while (__builtin_expect(range->rng <= EC_CODE_BOT, 0)) {
        range->bits += EC_SYM_BITS;
        range->rng <<= EC_SYM_BITS;
        int before = range->rem;
        range->rem = range->offs < range->storage ? range->buf[range->offs++] : 0;
        int symbol = (before << EC_SYM_BITS | range->rem) >> (EC_SYM_BITS - EC_CODE_EXTRA);
        range->val = ((range->val << EC_SYM_BITS) + (EC_SYM_MAX & ~symbol)) & (EC_CODE_TOP - 1);
    }
}

/* A symbol of any number of values. */
INLINED int any_symbol(struct range *range, const unsigned char *icdf) {
    opus_uint32 unit = range->rng >> FTB, above, below = range->rng;
    int symbol = -1;
    do {
        above = below;
        below = unit * icdf[++symbol];
    } while (range->val < below);
    range->val -= below;
    range->rng = above - below;
    normalize(range);
    return symbol;
}

INLINED int three_symbol(struct range *range, opus_uint32 first, opus_uint32 second) {
    opus_uint32 unit = range->rng >> FTB;
    first *= unit;
    second *= unit;
    opus_uint32 not_first = -(opus_uint32)(range->val < first), not_second = -(opus_uint32)(range->val < second);
    opus_uint32 below = (first & ~not_first) | (second & (not_first & ~not_second));
    opus_uint32 above = (range->rng & ~not_first) | (first & (not_first & ~not_second)) | (second & not_second);
    range->val -= below;
    range->rng = above - below;
    normalize(range);
    return -(int)(not_first + not_second);
}

INLINED int two_symbol(struct range *range, opus_uint32 first) {
    first *= range->rng >> FTB;
    opus_uint32 not_first = -(opus_uint32)(range->val < first);
    range->val -= first & ~not_first;
    range->rng = (first & not_first) | ((range->rng - first) & ~not_first);
    normalize(range);
    return -(int)not_first;
}

/* How many of the pulses are in the first half. */
INLINED int split(struct range *range, int level, int pulses) {
    if (__builtin_expect(pulses <= FEW, 1)) {
        return three_symbol(range, few[level][pulses][0], few[level][pulses][1]);
    }
    return any_symbol(range, tables[level] + silk_shell_code_table_offsets[pulses]);
}

INLINED void place_in_2(struct range *range, opus_int16 out[2], int pulses) {
    int first = split(range, 0, pulses);
    out[0] = (opus_int16)first;
    out[1] = (opus_int16)(pulses - first);
}

static inline void place_in_4(struct range *range, opus_int16 out[4], int pulses) {
    if (pulses > 0) {
        int first = split(range, 1, pulses);
        place_in_2(range, out, first);
        place_in_2(range, out + 2, pulses - first);
    }
}

static inline void place_in_8(struct range *range, opus_int16 out[8], int pulses) {
    if (pulses > 0) {
        int first = split(range, 2, pulses);
        place_in_4(range, out, first);
        place_in_4(range, out + 4, pulses - first);
    }
}

/* The numbers of pulses of all blocks, those of less significant bits in the bits from LSB_SHIFT on. */
INLINED void read_sums(struct range *range, int sums[], int blocks, int signalType) {
    const unsigned char *icdf = silk_pulses_per_block_iCDF[any_symbol(range, silk_rate_levels_iCDF[signalType >> 1])];
    for (int block = 0; block < blocks; block++) {
        int lsbs = 0, sum = any_symbol(range, icdf);
        while (sum == SILK_MAX_PULSES + 1) {
            lsbs++;
            /* At the most the last value is left out. */
            sum = any_symbol(range, silk_pulses_per_block_iCDF[N_RATE_LEVELS - 1] + (lsbs == LSB_MAX));
        }
        sums[block] = sum | lsbs << LSB_SHIFT;
    }
}

static void read_lsbs(struct range *range, opus_int16 pulses[BLOCK], int lsbs) {
    for (int i = 0; i < BLOCK; i++) {
        for (int j = 0; j < lsbs; j++) {
            pulses[i] = (opus_int16)(pulses[i] * 2 + two_symbol(range, silk_lsb_iCDF[0]));
        }
    }
}

INLINED void read_signs(struct range *range, opus_int16 pulses[BLOCK], opus_uint32 negative) {
    opus_uint32 places = 0;
    for (int i = 0; i < BLOCK; i++) {
        places |= (opus_uint32)(pulses[i] != 0) << i;
    }
    for (; places != 0; places &= places - 1) {
        int i = __builtin_ctz(places);
        int is_positive = two_symbol(range, negative);
        pulses[i] = (opus_int16)(pulses[i] * (2 * is_positive - 1));
    }
}

static int blocks_of(int frame_length) {
    return (frame_length + BLOCK - 1) / BLOCK;
}

static void decode(ec_dec *decoder, opus_int16 pulses[], int signalType, int quantOffsetType, int frame_length) {
    struct range range = {decoder->rng,     decoder->val, decoder->buf,        decoder->offs,
                          decoder->storage, decoder->rem, decoder->nbits_total};
    int sums[MAX_NB_SHELL_BLOCKS], blocks = blocks_of(frame_length);
    const int sum_mask = (1 << LSB_SHIFT) - 1;
    read_sums(&range, sums, blocks, signalType);

    memset(pulses, 0, sizeof(pulses[0]) * BLOCK * (size_t)blocks);
    for (int block = 0; block < blocks; block++) {
        int sum = sums[block] & sum_mask;
        if (sum > 0) {
            int first = split(&range, 3, sum);
            place_in_8(&range, pulses + block * BLOCK, first);
            place_in_8(&range, pulses + block * BLOCK + BLOCK / 2, sum - first);
        }
    }
    for (int block = 0; block < blocks; block++) {
        if (sums[block] > sum_mask) {
            read_lsbs(&range, pulses + block * BLOCK, sums[block] >> LSB_SHIFT);
        }
    }
    const unsigned char *negative = silk_sign_iCDF + (SIGN_CLASSES + 1) * (quantOffsetType + 2 * signalType);
    for (int block = 0; block < blocks; block++) {
        if (sums[block] > 0) {
            read_signs(&range, pulses + block * BLOCK, negative[silk_min(sums[block] & sum_mask, SIGN_CLASSES)]);
        }
    }
    decoder->rng = range.rng;
    decoder->val = range.val;
    decoder->offs = range.offs;
    decoder->rem = range.rem;
    decoder->nbits_total = range.bits;
}

void silk_decode_pulses(ec_dec *decoder, opus_int16 pulses[], const opus_int signalType, const opus_int quantOffsetType,
                        const opus_int frame_length) {
    if (libopus_choice == LIBOPUS_PLAIN) {
        libopus_decode_pulses(decoder, pulses, signalType, quantOffsetType, frame_length);
        return;
    }
    ec_dec theirs = *decoder;
    decode(decoder, pulses, signalType, quantOffsetType, frame_length);
    if (libopus_choice == LIBOPUS_COMPARED) {
        opus_int16 their_pulses[MAX_FRAME_LENGTH];
        libopus_decode_pulses(&theirs, their_pulses, signalType, quantOffsetType, frame_length);
        libopus_compared(LIBOPUS_DECODE_PULSES,
                         memcmp(pulses, their_pulses, sizeof(pulses[0]) * BLOCK * (size_t)blocks_of(frame_length)) == 0 &&
                             theirs.rng == decoder->rng && theirs.val == decoder->val && theirs.offs == decoder->offs &&
                             theirs.rem == decoder->rem && theirs.nbits_total == decoder->nbits_total);
    }
}
