/* Worker threads of the engine, which OpenBLAS may share.
 *
 * OpenMP's cannot serve both. How long they spin when idle, which decides what the products between
 * two steps cost, is fixed when an OpenMP runtime is loaded, and then holds for all of the process.
 * A child of fork() hangs in its first region if the parent has run one. And the jobs of one product
 * wait for each other, so each needs a thread of its own at the same time; a parallel region may get
 * fewer (inside another region, under a thread limit), and the product would never end. */
#ifndef FASTOPTIM_POOL_H
#define FASTOPTIM_POOL_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* for sets of CPUs */
#endif
#include <stddef.h>
#include <stdint.h>

typedef void (*fo_job)(int i, void *work);
typedef void (*fo_blas_job)(int slot, void *data, int buffer);

#ifdef _WIN32

#define FO_POOL 0
enum { FO_SPIN = 0 };
static int fo_blas_slots;
static int64_t fo_set_spin(int64_t ns) { return ns; }
static int fo_pool_install(void) { return 0; }
static int fo_pool_grow(int threads) { (void)threads; return 1; }
static int fo_pool_try(fo_job job, int n, void *work) { (void)job, (void)n, (void)work; return 0; }
static void fo_blas_run(int sync, fo_blas_job job, int n, size_t size, void *data, int buffer)
{
    (void)sync, (void)job, (void)n, (void)size, (void)data, (void)buffer;
}

#else

#define FO_POOL 1
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum {
    FO_MOST_WORKERS = 1024,
    FO_SPIN = 50000 /* ns that an idle worker stays awake: until a second pass comes */
};

typedef struct {
    unsigned ticket; /* grows by one with every job */
    int offered;     /* whether the job is still to be taken */
    int asleep;
    int number;
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t wake;
} fo_worker;

static int64_t fo_spin = FO_SPIN;
static int fo_blas_slots; /* of OpenBLAS's table of threads */

static pthread_mutex_t fo_region = PTHREAD_MUTEX_INITIALIZER; /* guards all that follows */
static fo_worker *fo_workers[FO_MOST_WORKERS];
static int fo_worker_count;
static fo_job fo_current;
static void *fo_work;
static int fo_unfinished;

/* Set how long an idle worker stays awake; return the old value. */
static int64_t fo_set_spin(int64_t ns) { return __atomic_exchange_n(&fo_spin, ns, __ATOMIC_RELAXED); }

static int64_t fo_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void fo_pause(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

static int fo_ticket_comes_soon(fo_worker *worker, unsigned seen)
{
    int64_t end = fo_now() + __atomic_load_n(&fo_spin, __ATOMIC_RELAXED);
    do {
        for (int k = 0; k < 64; k++) {
            if (__atomic_load_n(&worker->ticket, __ATOMIC_ACQUIRE) != seen) return 1;
            fo_pause();
        }
        sched_yield(); /* the core goes to whoever else wants it */
    } while (fo_now() < end);
    return 0;
}

/* Take the job that a worker is offered, which its region may have taken back. */
static int fo_claim(fo_worker *worker)
{
    int offered = 1;
    return __atomic_compare_exchange_n(&worker->offered, &offered, 0, 0, __ATOMIC_ACQ_REL,
                                       __ATOMIC_RELAXED);
}

static void *fo_serve(void *argument)
{
    fo_worker *worker = (fo_worker *)argument;
    for (unsigned seen = 0;; seen++) {
        if (!fo_ticket_comes_soon(worker, seen)) {
            pthread_mutex_lock(&worker->mutex);
            __atomic_store_n(&worker->asleep, 1, __ATOMIC_SEQ_CST);
            while (__atomic_load_n(&worker->ticket, __ATOMIC_SEQ_CST) == seen)
                pthread_cond_wait(&worker->wake, &worker->mutex);
            __atomic_store_n(&worker->asleep, 0, __ATOMIC_SEQ_CST);
            pthread_mutex_unlock(&worker->mutex);
        }
        if (!fo_claim(worker)) continue;
        fo_current(worker->number, fo_work);
        __atomic_sub_fetch(&fo_unfinished, 1, __ATOMIC_RELEASE);
    }
    return NULL;
}

/* Start a thread that leaves signals to those of the program, but for those of its own faults. */
static int fo_start(fo_worker *worker)
{
    const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP};
    sigset_t blocked, before;
    int error;
    sigfillset(&blocked);
    for (size_t k = 0; k < sizeof faults / sizeof *faults; k++) sigdelset(&blocked, faults[k]);
    pthread_sigmask(SIG_SETMASK, &blocked, &before);
    error = pthread_create(&worker->thread, NULL, fo_serve, worker);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return error;
}

/* Start workers until jobs can run on so many threads, the caller's included. */
static int fo_add_workers(int threads)
{
    while (fo_worker_count < threads - 1) {
        fo_worker *worker;
        if (fo_worker_count == FO_MOST_WORKERS) return 0;
        /* Each on a cache line of its own, which its thread watches; never freed. */
        if (posix_memalign((void **)&worker, 128, sizeof *worker) != 0) return 0;
        worker->ticket = 0;
        worker->offered = 0;
        worker->asleep = 0;
        worker->number = fo_worker_count + 1;
        pthread_mutex_init(&worker->mutex, NULL);
        pthread_cond_init(&worker->wake, NULL);
        if (fo_start(worker) != 0) {
            free(worker);
            return 0;
        }
        pthread_detach(worker->thread);
        fo_workers[fo_worker_count++] = worker;
    }
    return 1;
}

#ifdef __linux__
static cpu_set_t fo_followed; /* where so many of the workers run */
static int fo_following;

/* Let workers run where the caller may run, which need not be where they were started. */
static void fo_follow(int workers)
{
    cpu_set_t mask;
    if (sched_getaffinity(0, sizeof mask, &mask) != 0) return;
    if (workers <= fo_following && CPU_EQUAL(&mask, &fo_followed)) return;
    for (int i = 0; i < workers; i++)
        pthread_setaffinity_np(fo_workers[i]->thread, sizeof mask, &mask);
    fo_followed = mask;
    fo_following = workers;
}
#else
static int fo_following;
static void fo_follow(int workers) { (void)workers; }
#endif

/* Run job(0, work) here and job(1, work) to job(n - 1, work) on a worker each: all of them at once,
 * or those that have begun by the time the caller is done. */
static void fo_run_region(fo_job job, int n, void *work, int all)
{
    fo_follow(n - 1);
    fo_current = job;
    fo_work = work;
    __atomic_store_n(&fo_unfinished, n - 1, __ATOMIC_RELAXED);
    for (int i = 0; i < n - 1; i++) {
        fo_worker *worker = fo_workers[i];
        __atomic_store_n(&worker->offered, 1, __ATOMIC_RELEASE);
        __atomic_add_fetch(&worker->ticket, 1, __ATOMIC_SEQ_CST);
        if (__atomic_load_n(&worker->asleep, __ATOMIC_SEQ_CST)) {
            pthread_mutex_lock(&worker->mutex);
            pthread_cond_signal(&worker->wake);
            pthread_mutex_unlock(&worker->mutex);
        }
    }
    job(0, work);
    for (int i = 0; i < n - 1 && !all; i++)
        if (fo_claim(fo_workers[i])) __atomic_sub_fetch(&fo_unfinished, 1, __ATOMIC_RELAXED);
    for (int k = 0; __atomic_load_n(&fo_unfinished, __ATOMIC_ACQUIRE) > 0; k++) {
        if (k % 64 == 63) sched_yield();
        fo_pause();
    }
}

static int fo_pool_grow(int threads)
{
    int grown;
    pthread_mutex_lock(&fo_region);
    grown = fo_add_workers(threads);
    pthread_mutex_unlock(&fo_region);
    return grown;
}

/* Run job(0, work) here and others, up to job(n - 1, work), on the workers that there are and that
 * begin in time. Return 0 if they are busy; then nothing has run. */
static int fo_pool_try(fo_job job, int n, void *work)
{
    if (pthread_mutex_trylock(&fo_region) != 0) return 0;
    if (!fo_add_workers(n)) n = fo_worker_count + 1;
    fo_run_region(job, n, work, 0);
    pthread_mutex_unlock(&fo_region);
    return 1;
}

typedef struct {
    fo_blas_job job;
    size_t size;
    char *data;
    int buffer;
} fo_blas_work;

/* A slot names a work buffer and a mailbox of one of OpenBLAS's own threads. These count from 0,
 * and still serve the factorization of matrices; the last slots are nobody's. */
static void fo_run_blas_job(int i, void *work)
{
    fo_blas_work *w = (fo_blas_work *)work;
    w->job(fo_blas_slots - 1 - i, w->data + (size_t)i * w->size, w->buffer);
}

/* The callback. Calls from several threads take turns, since they would share the buffers. */
static void fo_blas_run(int sync, fo_blas_job job, int n, size_t size, void *data, int buffer)
{
    fo_blas_work work = {job, size, (char *)data, buffer};
    (void)sync;
    pthread_mutex_lock(&fo_region);
    if (!fo_add_workers(n)) {
        fprintf(stderr, "fastoptim: cannot start the %d threads of a product\n", n - 1);
        abort(); /* OpenBLAS ends the process too when it cannot start its threads */
    }
    fo_run_region(fo_run_blas_job, n, &work, 1);
    pthread_mutex_unlock(&fo_region);
}

/* A fork waits for the region under way. The child has no workers, and starts new ones. */
static void fo_before_fork(void) { pthread_mutex_lock(&fo_region); }
static void fo_after_fork(void) { pthread_mutex_unlock(&fo_region); }
static void fo_in_child(void)
{
    fo_worker_count = fo_following = 0;
    pthread_mutex_init(&fo_region, NULL);
}

static int fo_pool_install(void)
{
    return pthread_atfork(fo_before_fork, fo_after_fork, fo_in_child);
}

#endif
#endif
