/* The name of the compiler. */
#ifndef FASTOPTIM_COMPILER_H
#define FASTOPTIM_COMPILER_H

#if defined(__clang__)
#define FO_COMPILER "clang " __clang_version__
#elif defined(__GNUC__)
#define FO_COMPILER "gcc " __VERSION__
#elif defined(_MSC_VER)
#define FO_STR_(x) #x
#define FO_STR(x) FO_STR_(x)
#define FO_COMPILER "msvc " FO_STR(_MSC_VER)
#else
#define FO_COMPILER "unknown"
#endif

#endif
