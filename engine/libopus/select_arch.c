/* opus_select_arch: which vector instructions the processor has, asked once.
 *
 * libopus asks again for each state that it sets up, five times for a transcoded call, and in a call where a stream goes from CELT to SILK or
 * from mono to stereo. A virtual machine stops for each question (cpuid, four of them): measured, 26 us, five times in 146 us for both
 * states, which take 1 us without it.
 */
#include "config.h"

#include "cpu_support.h"

#if OPUS_ARCHMASK != 0

int libopus_select_arch(void);

int opus_select_arch(void) {
    /* What was found, and one: whoever comes first, and whoever comes at the same time, finds the same. */
    static int known;
    int found = __atomic_load_n(&known, __ATOMIC_RELAXED);
    if (found == 0) {
        found = libopus_select_arch() + 1;
        __atomic_store_n(&known, found, __ATOMIC_RELAXED);
    }
    return found - 1;
}

#endif
