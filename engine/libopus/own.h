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

/* Says which function differed, and ends the process. */
_Noreturn void libopus_differs(const char *function);

#endif
