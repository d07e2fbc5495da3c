/* A floating-point mode in which denormal numbers are zero, as operands and as results.
 *
 * Each thread has a mode of its own. On x86-64 the flags of floating-point exceptions are a part of
 * it: to go back to the old mode forgets the exceptions that were raised meanwhile. */
#ifndef FASTOPTIM_DENORMALS_H
#define FASTOPTIM_DENORMALS_H

typedef unsigned long long fo_mode;

#if defined(__x86_64__) || defined(_M_X64)

#include <xmmintrin.h>
#define FO_CAN_FLUSH 1
enum { FO_FLUSH = 0x8040 }; /* of MXCSR: flush to zero, denormals are zero */
static inline fo_mode fo_get_mode(void) { return _mm_getcsr(); }
static inline void fo_set_mode(fo_mode mode) { _mm_setcsr((unsigned)mode); }

#elif defined(__aarch64__) && (defined(__GNUC__) || defined(__clang__))

#define FO_CAN_FLUSH 1
enum { FO_FLUSH = 1 << 24 }; /* of FPCR: flush to zero */
static inline fo_mode fo_get_mode(void)
{
    fo_mode mode;
    __asm__ __volatile__("mrs %0, fpcr" : "=r"(mode));
    return mode;
}
static inline void fo_set_mode(fo_mode mode) { __asm__ __volatile__("msr fpcr, %0" : : "r"(mode)); }

#else

#define FO_CAN_FLUSH 0
enum { FO_FLUSH = 0 };
static inline fo_mode fo_get_mode(void) { return 0; }
static inline void fo_set_mode(fo_mode mode) { (void)mode; }

#endif
#endif
