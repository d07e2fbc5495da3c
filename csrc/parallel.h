/* OpenMP or its absence, the fork guard, and the compiler's name. */
#ifndef FASTOPTIM_PARALLEL_H
#define FASTOPTIM_PARALLEL_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* for sets of CPUs */
#endif
#ifdef __linux__
#include <sched.h>
#endif
#ifdef _OPENMP
#include <omp.h>
#define FO_OPENMP _OPENMP
#else
#define FO_OPENMP 0
static int omp_get_max_threads(void) { return 1; }
static int omp_get_num_procs(void) { return 1; }
static int omp_in_parallel(void) { return 0; }
#endif

#if FO_OPENMP < 201307 /* version 4.0 */
static int omp_get_thread_limit(void) { return 1 << 30; }
static int omp_get_max_active_levels(void) { return 1; }
static int omp_get_proc_bind(void) { return 0; }
#endif

/* How many threads a parallel region of the caller's would get. */
static int fo_openmp_threads(void)
{
    int threads = omp_get_max_threads(), limit = omp_get_thread_limit();
    if (omp_in_parallel() || omp_get_max_active_levels() == 0) return 1;
    return limit < threads ? limit : threads;
}

/* How many CPUs the calling thread may run on at this moment.
 *
 * LLVM's runtime counts them once, when it is loaded, so the system is asked. But where OpenMP binds
 * threads, this one may be bound to a CPU of its own, and only the runtime knows those of the
 * others. */
static int fo_cpus(void)
{
#ifdef __linux__
    cpu_set_t mask; /* too short on machines of more than 1,024 CPUs, where the call fails */
    if (omp_get_proc_bind() == 0 && sched_getaffinity(0, sizeof mask, &mask) == 0)
        return CPU_COUNT(&mask);
#endif
    return omp_get_num_procs();
}

/* A child of fork() has none of its parent's OpenMP workers, and the runtime waits for them for
 * ever. So a child never asks OpenMP: it computes on one thread or, told otherwise since the fork,
 * on new workers of pool.h. */
static volatile int fo_forks = 0; /* from the process that imported us to this one */

#ifndef _WIN32
#include <pthread.h>
static void fo_count_fork(void) { fo_forks++; }
static int fo_install_fork_guard(void) { return pthread_atfork(0, 0, fo_count_fork); }
#else
static int fo_install_fork_guard(void) { return 0; }
#endif

/* Take the next number, of which no other thread will get the same. */
#ifdef _MSC_VER
#include <intrin.h>
#define fo_take(next) _InterlockedExchangeAdd64((volatile __int64 *)(next), 1)
#else
#define fo_take(next) __atomic_fetch_add(next, 1, __ATOMIC_RELAXED)
#endif

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
