/* The two types that loops compute in, as pointers that do not alias.
 *
 * Cython cannot say `restrict`; without it the compiler guards each loop with run-time overlap
 * checks, and gives up vectorising once a rule has more than a handful of arrays. */
#ifndef FASTOPTIM_REAL_H
#define FASTOPTIM_REAL_H

#include <float.h>

/* Wider intermediates (x87) would give other bits than NumPy. */
#if defined(FLT_EVAL_METHOD) && FLT_EVAL_METHOD != 0 && FLT_EVAL_METHOD != 16
#error "fastoptim needs float arithmetic in float: on 32-bit x86, add -msse2 -mfpmath=sse to CFLAGS"
#endif

/* MSVC before Visual Studio 2022 fuses under /fp:precise, too. */
#if defined(_MSC_VER) && !defined(__clang__)
#pragma fp_contract(off)
#endif

typedef float *__restrict fo_f32;
typedef double *__restrict fo_f64;

#endif
