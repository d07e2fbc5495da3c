/* Rooms that threads share: each is one thread's at a time. */
#ifndef FASTOPTIM_ROOMS_H
#define FASTOPTIM_ROOMS_H

#include <stdatomic.h>

typedef atomic_flag fo_taken; /* all bits 0: free */

/* Take a free one of n rooms, of which there are as many as threads, and return its number. */
static inline int fo_enter(fo_taken *taken, int n)
{
    for (int k = 0;; k = (k + 1) % n)
        if (!atomic_flag_test_and_set_explicit(&taken[k], memory_order_acquire)) return k;
}

static inline void fo_leave(fo_taken *taken, int k)
{
    atomic_flag_clear_explicit(&taken[k], memory_order_release);
}

#endif
