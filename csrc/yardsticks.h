/* What the benchmark measures by: loops of one instruction-set level each.
 *
 * They share nothing with the engine, so that they can judge it. The arithmetic of the rules is
 * that of _loops.pxi, and gives the same bits. */
#ifndef FASTOPTIM_YARDSTICKS_H
#define FASTOPTIM_YARDSTICKS_H

#include <stddef.h>
#include <stdint.h>

enum { FO_MOST_STREAMS = 5 };

/* The streams of a step, as 64-bit words: one array that is read, and some that are read and
 * written. */
typedef struct {
    const uint64_t *read;
    uint64_t *changed[FO_MOST_STREAMS];
    int count; /* of the arrays that are written, at least one */
} fo_streams;

typedef struct {
    float b1, a1, b2, a2, lr, r2, eps;
} fo_adam_scalars;

typedef struct {
    float mu, lr;
} fo_momentum_scalars;

typedef struct {
    const char *name;
    /* Add what is read to what is written, from one word up to another. */
    void (*stream)(const fo_streams *s, ptrdiff_t start, ptrdiff_t end);
    /* Return the sum of n words. */
    uint64_t (*sum)(ptrdiff_t n, const uint64_t *a);
    /* Take the step of a rule on n elements. */
    void (*adam)(ptrdiff_t n, float *p, const float *g, float *m, float *v,
                 const fo_adam_scalars *c);
    void (*momentum)(ptrdiff_t n, float *p, const float *g, float *v, const fo_momentum_scalars *c);
} fo_yardstick;

/* All that were compiled, lowest level first; the last has no name. Whether the CPU runs a level is
 * for the caller to know. */
extern const fo_yardstick fo_yardsticks[];

#endif
