/* Whose functions are called is decided once, before main: ours where the processor has AVX2. LIBOPUS_PLAIN=1 takes libopus's alone (to
 * measure against, or where ours are suspected of something), LIBOPUS_COMPARED=1 calls both and compares all that they leave behind
 * (tests). */
#include "own.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum libopus_choice libopus_choice = LIBOPUS_OWN_FUNCTIONS;

static int is_set(const char *name) {
    const char *value = getenv(name);
    return value != NULL && strcmp(value, "1") == 0;
}

__attribute__((constructor)) static void choose(void) {
    __builtin_cpu_init();
    if (is_set("LIBOPUS_PLAIN") || !__builtin_cpu_supports("avx2")) {
        libopus_choice = LIBOPUS_PLAIN;
    } else if (is_set("LIBOPUS_COMPARED")) {
        libopus_choice = LIBOPUS_COMPARED;
    }
}

void libopus_differs(const char *function) {
    fprintf(stderr, "libopus: %s and ours differ\n", function);
    abort();
}
