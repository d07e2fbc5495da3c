/* Which instruction-set levels this CPU and operating system can run: the micro-architecture levels
 * of x86-64, and the scalable vectors of aarch64. */
#ifndef FASTOPTIM_CPU_H
#define FASTOPTIM_CPU_H

#include <stdint.h>

/* What CPUID says in three of its leaves; and what XGETBV says: which registers the system saves in
 * switching from one thread to another. */
typedef struct {
    uint32_t leaf1_c, leaf7_b, extended1_c, kept;
} fo_features;

enum {
    /* Leaf 1, ECX: what v3 has from v2: SSE3, SSSE3, CMPXCHG16B, SSE4.1, SSE4.2, POPCNT. */
    FO_V2_C = 1 << 0 | 1 << 9 | 1 << 13 | 1 << 19 | 1 << 20 | 1 << 23,
    /* Leaf 1, ECX: what is new in v3: FMA, MOVBE, OSXSAVE (XGETBV can be asked), AVX, F16C. */
    FO_OSXSAVE = 1 << 27,
    FO_V3_C = 1 << 12 | 1 << 22 | FO_OSXSAVE | 1 << 28 | 1 << 29,
    /* Leaf 7, EBX: BMI1, AVX2, BMI2. */
    FO_V3_B7 = 1 << 3 | 1 << 5 | 1 << 8,
    /* Leaf 7, EBX: what is new in v4: AVX512F, AVX512DQ, AVX512CD, AVX512BW, AVX512VL. */
    FO_V4_B7 = (int)(1u << 16 | 1u << 17 | 1u << 28 | 1u << 30 | 1u << 31),
    /* Leaf 0x80000001, ECX: LAHF, LZCNT. */
    FO_V3_C_EXTENDED = 1 << 0 | 1 << 5,
    /* XCR0: the registers of SSE and of AVX. */
    FO_YMM = 1 << 1 | 1 << 2,
    /* XCR0: the registers of AVX-512: masks, and the upper parts of the lower and upper 16. */
    FO_ZMM = 1 << 5 | 1 << 6 | 1 << 7,
};

static int fo_has(uint32_t found, uint32_t expected) { return (found & expected) == expected; }

static int fo_is_v3(fo_features f)
{
    return fo_has(f.leaf1_c, FO_V2_C | FO_V3_C) && fo_has(f.leaf7_b, FO_V3_B7)
        && fo_has(f.extended1_c, FO_V3_C_EXTENDED) && fo_has(f.kept, FO_YMM);
}

static int fo_is_v4(fo_features f)
{
    return fo_is_v3(f) && fo_has(f.leaf7_b, (uint32_t)FO_V4_B7) && fo_has(f.kept, FO_ZMM);
}

#if defined(__x86_64__) || defined(_M_X64)

#ifdef _MSC_VER

#include <intrin.h>

static void fo_cpuid(uint32_t leaf, uint32_t r[4]) { __cpuidex((int *)r, (int)leaf, 0); }
static uint32_t fo_xgetbv(void) { return (uint32_t)_xgetbv(0); }

#else

#include <cpuid.h>

static void fo_cpuid(uint32_t leaf, uint32_t r[4])
{
    __cpuid_count(leaf, 0, r[0], r[1], r[2], r[3]);
}

static uint32_t fo_xgetbv(void)
{
    uint32_t low, high;
    __asm__ __volatile__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

#endif

static fo_features fo_cpu_features(void)
{
    fo_features f = {0};
    uint32_t r[4]; /* EAX, EBX, ECX, EDX */
    fo_cpuid(0, r);
    if (r[0] >= 7) {
        fo_cpuid(1, r);
        f.leaf1_c = r[2];
        fo_cpuid(7, r);
        f.leaf7_b = r[1];
    }
    fo_cpuid(0x80000000u, r);
    if (r[0] >= 0x80000001u) {
        fo_cpuid(0x80000001u, r);
        f.extended1_c = r[2];
    }
    if (fo_has(f.leaf1_c, FO_OSXSAVE)) f.kept = fo_xgetbv();
    return f;
}

#else

static fo_features fo_cpu_features(void)
{
    fo_features none = {0};
    return none;
}

#endif

static int fo_cpu_v3(void) { return fo_is_v3(fo_cpu_features()); }
static int fo_cpu_v4(void) { return fo_is_v4(fo_cpu_features()); }

#if defined(__aarch64__) && defined(__linux__)

#include <sys/auxv.h>

enum { FO_HWCAP_SVE = 1 << 22 }; /* the CPU has it, and the system keeps its registers */
static int fo_cpu_sve(void) { return (getauxval(AT_HWCAP) & FO_HWCAP_SVE) != 0; }

#else

static int fo_cpu_sve(void) { return 0; }

#endif

#endif
