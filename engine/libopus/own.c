/* Whose functions are called is decided once, before main: ours where the processor has AVX2 and both sets of BMI. LIBOPUS_PLAIN=1 takes libopus's alone (to
 * measure against, or where ours are suspected of something), LIBOPUS_COMPARED=1 calls both and compares all that they leave behind
 * (tests). */
#include "own.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum libopus_choice libopus_choice = LIBOPUS_OWN_FUNCTIONS;

static const char *const names[LIBOPUS_FUNCTIONS] = {
    "silk_A2NLSF",
    "silk_decode_core",
    "silk_decode_core (saturated)",
    "silk_decode_pulses",
    "ec_enc_icdf",
    "silk_encode_signs",
    "silk_NLSF_del_dec_quant",
    "silk_noise_shape_quantizer",
    "silk_VQ_WMat_EC",
    "silk_warped_autocorrelation_FLP",
};
/* How often each was found alike. */
static unsigned long alike_times[LIBOPUS_FUNCTIONS];

static int is_set(const char *name) {
    const char *value = getenv(name);
    return value != NULL && strcmp(value, "1") == 0;
}

__attribute__((constructor)) static void choose(void) {
    __builtin_cpu_init();
    /* libopus's own idea of the processor is not asked: built for AVX2 alone, it has none. */
    int has_all = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
    if (is_set("LIBOPUS_PLAIN") || !has_all) {
        libopus_choice = LIBOPUS_PLAIN;
    } else if (is_set("LIBOPUS_COMPARED")) {
        libopus_choice = LIBOPUS_COMPARED;
    }
}

void libopus_compared(enum libopus_function function, int alike) {
    if (!alike) {
        fprintf(stderr, "libopus: %s and ours differ\n", names[function]);
        abort();
    }
    __atomic_fetch_add(&alike_times[function], 1, __ATOMIC_RELAXED);
}

__attribute__((destructor)) static void tell(void) {
    for (int function = 0; libopus_choice == LIBOPUS_COMPARED && function < LIBOPUS_FUNCTIONS; function++) {
        fprintf(stderr, "libopus: %s and ours alike %lu times\n", names[function], alike_times[function]);
    }
}
