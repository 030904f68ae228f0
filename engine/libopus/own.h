/* Which of libopus's functions are called: ours, theirs, or both to compare (own.c). */
#ifndef LIBOPUS_OWN_H
#define LIBOPUS_OWN_H

enum libopus_choice {
    /* Ours, where the processor has AVX2. */
    LIBOPUS_OWN_FUNCTIONS,
    /* Theirs alone. */
    LIBOPUS_PLAIN,
    /* Both, and the process ends where they differ in one bit. */
    LIBOPUS_COMPARED,
};

extern enum libopus_choice libopus_choice;

/* What of libopus has a function of ours, in the order of `own.c`'s names. */
enum libopus_function {
    LIBOPUS_A2NLSF,
    LIBOPUS_DECODE_CORE,
    /* The same of frames in which something saturated. */
    LIBOPUS_DECODE_CORE_SATURATED,
    LIBOPUS_DECODE_PULSES,
    LIBOPUS_ENC_ICDF,
    LIBOPUS_ENCODE_SIGNS,
    LIBOPUS_NLSF_DEL_DEC_QUANT,
    LIBOPUS_NOISE_SHAPE_QUANTIZER,
    LIBOPUS_VQ_WMAT_EC,
    LIBOPUS_WARPED_AUTOCORRELATION,
    LIBOPUS_FUNCTIONS,
};

/* Both were called: the process ends where they were not alike, and tells at its end how often they were. */
void libopus_compared(enum libopus_function function, int alike);

#endif
