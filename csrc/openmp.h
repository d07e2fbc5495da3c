/* OpenMP runtimes that other libraries have loaded into this process.
 *
 * fastoptim is linked with none and loads none. Those that are there are asked how many threads the
 * user allows, and one of them may lend its workers. */
#ifndef FASTOPTIM_OPENMP_H
#define FASTOPTIM_OPENMP_H

#include "pool.h"

typedef struct {
    int runtimes; /* loaded so far; all else is 0 where there are none */
    int threads;  /* that a parallel region of the calling thread would get: the fewest of all */
    int inside;   /* whether the calling thread is in a parallel region */
    int cpus;     /* of the process, where threads are bound to a CPU each, else 0 */
    int lends;    /* whether fo_openmp_run has workers to run on */
} fo_openmp;

/* GOMP_parallel of libgomp, which LLVM's and Intel's runtimes have, too. */
typedef void (*fo_gomp_parallel)(void (*function)(void *), void *data, unsigned n, unsigned flags);
typedef int (*fo_gomp_number)(void);

/* Ask all runtimes, those included that were loaded since the last call. */
FO_HIDDEN fo_openmp fo_openmp_ask(void);

/* Return the file name of one of the runtimes, by its number. */
FO_HIDDEN const char *fo_openmp_name(int runtime);

/* Have regions run on the workers of the runtime with these functions: its GOMP_parallel and its
 * omp_get_thread_num. NULL: on those of the first runtime that was found. */
FO_HIDDEN void fo_openmp_use(fo_gomp_parallel parallel, fo_gomp_number number);

/* Run job(0, work) to job(n - 1, work), or fewer of them, in a parallel region. */
FO_HIDDEN void fo_openmp_run(fo_job job, int n, void *work);

#endif
