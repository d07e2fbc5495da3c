/* Worker threads of the engine, which OpenBLAS may share: one pool in a process.
 *
 * It knows the operating system's threads and nothing of OpenMP, whose workers could not serve both
 * the engine and OpenBLAS. How long OpenMP's workers spin when idle decides what the products
 * between two steps cost, is fixed when a runtime is loaded, and holds for all of the process. A
 * child of fork() hangs in its first parallel region if the parent has run one. And the jobs of one
 * product wait for each other, so each needs a thread of its own at the same time; a parallel
 * region may get fewer (inside another region, under a thread limit), and the product would never
 * end. */
#ifndef FASTOPTIM_POOL_H
#define FASTOPTIM_POOL_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

/* For functions that are seen within the extension module alone. */
#if defined(__GNUC__) && !defined(_WIN32)
#define FO_HIDDEN __attribute__((visibility("hidden")))
#else
#define FO_HIDDEN
#endif

enum {
    FO_AWAKE_NS = 50000, /* how long an idle worker stays awake: until a second pass comes */
    FO_LINE = 128,       /* bytes that caches fetch together */
};

typedef void (*fo_job)(int i, void *work);
typedef void (*fo_blas_job)(int slot, void *data, int buffer);

/* How many forks lie between the process that imported us and this one. */
FO_HIDDEN extern int fo_forks;

/* Install the handlers of forks, once a process; return 0, or an error if memory is short. */
FO_HIDDEN int fo_pool_install(void);

/* How many CPUs the calling thread may run on at this moment. */
FO_HIDDEN int fo_cpus(void);

/* Set how long an idle worker stays awake; return the old value. */
FO_HIDDEN int64_t fo_set_awake_ns(int64_t ns);

/* Start workers until jobs can run on so many threads, the caller's included; return whether all
 * of them run. */
FO_HIDDEN int fo_pool_grow(int threads);

/* Run job(0, work) here and others, up to job(n - 1, work), on the workers that begin before the
 * caller is done. So each job must do what is left of the work of all. Return 0 if the workers are
 * busy for another caller; then nothing has run. */
FO_HIDDEN int fo_pool_try(fo_job job, int n, void *work);

/* Run job(0, work) here and job(1, work) to job(n - 1, work) on a worker each, all at once; callers
 * take turns. Return 0 if there cannot be so many workers; then nothing has run. */
FO_HIDDEN int fo_pool_run(fo_job job, int n, void *work);

/* What OpenBLAS calls in place of its own threads, and the length of its table of them. */
FO_HIDDEN void fo_blas_run(int sync, fo_blas_job job, int n, size_t size, void *data, int buffer);
FO_HIDDEN void fo_set_blas_slots(int slots);

#endif
