/* Which x86-64 micro-architecture levels this CPU and operating system can run. */
#ifndef FASTOPTIM_CPU_H
#define FASTOPTIM_CPU_H

#if (defined(__x86_64__) || defined(__i386__)) && (defined(__GNUC__) || defined(__clang__))

#include <cpuid.h>

/* __builtin_cpu_supports asks the operating system for the wide registers too; the three
 * features that older compilers do not know by name are read from CPUID itself. */
static int fo_cpu_v3(void)
{
    unsigned a, b, c, d, c1;
    const unsigned fma = 1u << 12, movbe = 1u << 22, f16c = 1u << 29, lzcnt = 1u << 5;
    __builtin_cpu_init();
    if (!__get_cpuid(1, &a, &b, &c1, &d) || !__get_cpuid(0x80000001u, &a, &b, &c, &d))
        return 0;
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi")
        && __builtin_cpu_supports("bmi2")
        && (c1 & (fma | movbe | f16c)) == (fma | movbe | f16c) && (c & lzcnt);
}

static int fo_cpu_v4(void)
{
    return fo_cpu_v3() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")
        && __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq")
        && __builtin_cpu_supports("avx512vl");
}

#else

static int fo_cpu_v3(void) { return 0; }
static int fo_cpu_v4(void) { return 0; }

#endif
#endif
