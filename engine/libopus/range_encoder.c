/* ec_enc_icdf and silk_encode_signs: the range encoder (RFC 6716, 5.1), and what calls it for every pulse, byte for byte as libopus's.
 *
 * Why: which of its symbols comes cannot be foreseen, least of all a pulse's sign, and libopus branches by whether it is the first one, and
 * once more by whether there is a pulse. Here both symbols go one way, and pulses are found by their bits. */
#include "own.h"

#include "config.h"

#include "entenc.h"
#include "main.h"
#include "mfrngcod.h"

#include <emmintrin.h>
#include <string.h>

/* More than any frame's packet. */
#define PACKET_MAX 1500

void libopus_ec_enc_icdf(ec_enc *enc, int s, const unsigned char *icdf, unsigned ftb);
void libopus_encode_signs(ec_enc *enc, const opus_int8 pulses[], opus_int length, const opus_int signalType,
                          const opus_int quantOffsetType, const opus_int sum_pulses[MAX_NB_SHELL_BLOCKS]);

static void write_byte(ec_enc *enc, unsigned byte) {
    if (enc->offs + enc->end_offs >= enc->storage) {
        enc->error = -1;
        return;
    }
    enc->buf[enc->offs++] = (unsigned char)byte;
}

/* A byte that a carry may still change is held back, as are those of all ones after it, which would pass the carry on. */
__attribute__((noinline)) static void put_byte(ec_enc *enc, unsigned byte_and_carry) {
    if (byte_and_carry == EC_SYM_MAX) {
        enc->ext++;
        return;
    }
    unsigned carry = byte_and_carry >> EC_SYM_BITS;
    if (enc->rem >= 0) {
        write_byte(enc, (unsigned)enc->rem + carry);
    }
    for (; enc->ext > 0; enc->ext--) {
        write_byte(enc, (EC_SYM_MAX + carry) & EC_SYM_MAX);
    }
    enc->rem = (int)(byte_and_carry & EC_SYM_MAX);
}

/* The range being encoded into. */
struct range {
    opus_uint32 low, size;
};

/* Goes on with the part from `above` down to `below`, as icdf tables count: from the top of the range. */
static inline void narrow(struct range *range, ec_enc *enc, opus_uint32 above, opus_uint32 below) {
    range->low += range->size - above;
    range->size = above - below;
    while (__builtin_expect(range->size <= EC_CODE_BOT, 0)) {
        put_byte(enc, range->low >> EC_CODE_SHIFT);
        range->low = (range->low << EC_SYM_BITS) & (EC_CODE_TOP - 1);
        range->size <<= EC_SYM_BITS;
        enc->nbits_total += EC_SYM_BITS;
    }
}

/* The second number if `mask` is all ones, the first if it is zero. */
static inline opus_uint32 either(opus_uint32 first, opus_uint32 second, opus_uint32 mask) {
    return first ^ ((first ^ second) & mask);
}

static inline void encode_symbol(ec_enc *enc, int s, const unsigned char *icdf, unsigned ftb) {
    struct range range = {enc->val, enc->rng};
    opus_uint32 unit = range.size >> ftb;
    /* Above the first symbol there is what division has left over, too. */
    opus_uint32 is_first = s > 0 ? 0 : ~(opus_uint32)0;
    opus_uint32 above = either(unit * icdf[s - 1 - (int)is_first], range.size, is_first);
    narrow(&range, enc, above, unit * icdf[s]);
    enc->val = range.low;
    enc->rng = range.size;
}

static inline void encode_signs(ec_enc *enc, const opus_int8 pulses[], int blocks, const opus_uint8 *sign_icdf,
                                const opus_int sum_pulses[]) {
    struct range range = {enc->val, enc->rng};
    for (int block = 0; block < blocks; block++, pulses += SHELL_CODEC_FRAME_LENGTH) {
        if (sum_pulses[block] <= 0) {
            continue;
        }
        opus_uint32 positive = sign_icdf[silk_min(sum_pulses[block] & 0x1F, 6)];
        __m128i all = _mm_loadu_si128((const void *)pulses);
        unsigned without = (unsigned)_mm_movemask_epi8(_mm_cmpeq_epi8(all, _mm_setzero_si128()));
        unsigned negative = (unsigned)_mm_movemask_epi8(all);
        for (unsigned left = ~without & 0xFFFF; left != 0; left &= left - 1) {
            opus_uint32 is_negative = -(negative >> __builtin_ctz(left) & 1);
            opus_uint32 middle = (range.size >> 8) * positive;
            narrow(&range, enc, either(middle, range.size, is_negative), middle & is_negative);
        }
    }
    enc->val = range.low;
    enc->rng = range.size;
}

/* A copy of an encoder and of what it has written. */
struct copy {
    ec_enc enc;
    unsigned char bytes[PACKET_MAX];
};

/* Both are functions of their own so that what nearly always runs needs no stack. */
#define APART __attribute__((noinline, cold))

static int can_compare(const ec_enc *enc) {
    return libopus_choice == LIBOPUS_COMPARED && enc->storage <= PACKET_MAX;
}

static void copy(struct copy *copy, const ec_enc *enc) {
    memcpy(&copy->enc, enc, sizeof(*enc));
    memcpy(copy->bytes, enc->buf, enc->storage);
    copy->enc.buf = copy->bytes;
}

static void compare(enum libopus_function function, struct copy *theirs, const ec_enc *enc) {
    int alike = memcmp(theirs->bytes, enc->buf, enc->storage) == 0;
    theirs->enc.buf = enc->buf;
    libopus_compared(function, alike && memcmp(&theirs->enc, enc, sizeof(*enc)) == 0);
}

APART static void symbol_apart(ec_enc *enc, int s, const unsigned char *icdf, unsigned ftb) {
    if (!can_compare(enc)) {
        libopus_ec_enc_icdf(enc, s, icdf, ftb);
        return;
    }
    struct copy theirs;
    copy(&theirs, enc);
    libopus_ec_enc_icdf(&theirs.enc, s, icdf, ftb);
    encode_symbol(enc, s, icdf, ftb);
    compare(LIBOPUS_ENC_ICDF, &theirs, enc);
}

void ec_enc_icdf(ec_enc *enc, int s, const unsigned char *icdf, unsigned ftb) {
    if (__builtin_expect(libopus_choice == LIBOPUS_OWN_FUNCTIONS, 1)) {
        encode_symbol(enc, s, icdf, ftb);
    } else {
        symbol_apart(enc, s, icdf, ftb);
    }
}

static void signs(ec_enc *enc, const opus_int8 pulses[], int length, int type, const opus_int sum_pulses[]) {
    int blocks = (length + SHELL_CODEC_FRAME_LENGTH / 2) >> LOG2_SHELL_CODEC_FRAME_LENGTH;
    encode_signs(enc, pulses, blocks, &silk_sign_iCDF[7 * type], sum_pulses);
}

APART static void signs_apart(ec_enc *enc, const opus_int8 pulses[], int length, int signalType, int quantOffsetType,
                              const opus_int sum_pulses[]) {
    if (!can_compare(enc)) {
        libopus_encode_signs(enc, pulses, length, signalType, quantOffsetType, sum_pulses);
        return;
    }
    struct copy theirs;
    copy(&theirs, enc);
    libopus_encode_signs(&theirs.enc, pulses, length, signalType, quantOffsetType, sum_pulses);
    signs(enc, pulses, length, quantOffsetType + 2 * signalType, sum_pulses);
    compare(LIBOPUS_ENCODE_SIGNS, &theirs, enc);
}

void silk_encode_signs(ec_enc *enc, const opus_int8 pulses[], opus_int length, const opus_int signalType,
                       const opus_int quantOffsetType, const opus_int sum_pulses[MAX_NB_SHELL_BLOCKS]) {
    if (__builtin_expect(libopus_choice == LIBOPUS_OWN_FUNCTIONS, 1)) {
        signs(enc, pulses, length, quantOffsetType + 2 * signalType, sum_pulses);
    } else {
        signs_apart(enc, pulses, length, signalType, quantOffsetType, sum_pulses);
    }
}
