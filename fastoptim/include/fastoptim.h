/* Loops of one's own, which fastoptim runs on its arrays: the signature, and the names of capsules.
 *
 * A loop updates n elements of the parameters p and of the state arrays, from the gradient g as the
 * rule sees it. All arrays are contiguous and none overlaps another. state[k] is the address of the
 * rule's k-th state array, in the order of state=, NULL if it does not exist; scalars are what the
 * rule's function of scalars has returned, rounded to the type.
 *
 * It is called for pieces of arrays, of any size from 1, several at once in several threads, without
 * Python's lock: it must call nothing of Python's, keep nothing from one call to the next, and
 * compute each element from those at its own place alone. For the bits of the rule's function in
 * NumPy it must be compiled without fusing and reordering (-ffp-contract=off, no -ffast-math).
 *
 * A capsule of a loop is named FASTOPTIM_RULE_FLOAT32 or FASTOPTIM_RULE_FLOAT64.
 */
#ifndef FASTOPTIM_H
#define FASTOPTIM_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

#define FASTOPTIM_RULE_VERSION 1
#define FASTOPTIM_RULE_FLOAT32 "fastoptim.rule.v1.float32"
#define FASTOPTIM_RULE_FLOAT64 "fastoptim.rule.v1.float64"

typedef void (*fo_rule_float32)(ptrdiff_t n, float *p, const float *g, float *const *state,
                                const float *scalars);
typedef void (*fo_rule_float64)(ptrdiff_t n, double *p, const double *g, double *const *state,
                                const double *scalars);

#ifdef __cplusplus
}
#endif

#endif
