/* Worker threads of the engine, which OpenBLAS may share.
 *
 * OpenMP's cannot serve both. How long they spin when idle, which decides what the products between
 * two steps cost, is fixed when an OpenMP runtime is loaded, and then holds for all of the process.
 * A child of fork() hangs in its first region if the parent has run one. And the jobs of one product
 * wait for each other, so each needs a thread of its own at the same time; a parallel region may get
 * fewer (inside another region, under a thread limit), and the product would never end. */
#ifndef FASTOPTIM_POOL_H
#define FASTOPTIM_POOL_H

#include <stddef.h>

typedef void (*fo_job)(int i, void *work);
typedef void (*fo_blas_job)(int slot, void *data, int buffer);

#ifdef _WIN32

#define FO_POOL 0
static long fo_spin;
static int fo_blas_slots;
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
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { FO_MOST_WORKERS = 1024 };

typedef struct {
    unsigned ticket; /* grows by one with every job */
    int asleep;
    int number;
    pthread_mutex_t mutex;
    pthread_cond_t wake;
} fo_worker;

static long fo_spin = 50000; /* ns that an idle worker stays awake: until a second pass comes */
static int fo_blas_slots;    /* of OpenBLAS's table of threads */

static pthread_mutex_t fo_region = PTHREAD_MUTEX_INITIALIZER; /* guards all that follows */
static fo_worker *fo_workers[FO_MOST_WORKERS];
static int fo_worker_count;
static fo_job fo_current;
static void *fo_work;
static int fo_unfinished;

static long fo_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000L + t.tv_nsec;
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
    long end = fo_now() + fo_spin;
    do {
        for (int k = 0; k < 64; k++) {
            if (__atomic_load_n(&worker->ticket, __ATOMIC_ACQUIRE) != seen) return 1;
            fo_pause();
        }
        sched_yield(); /* the core goes to whoever else wants it */
    } while (fo_now() < end);
    return 0;
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
        fo_current(worker->number, fo_work);
        __atomic_sub_fetch(&fo_unfinished, 1, __ATOMIC_RELEASE);
    }
    return NULL;
}

/* Start workers until jobs can run on so many threads, the caller's included. */
static int fo_add_workers(int threads)
{
    while (fo_worker_count < threads - 1) {
        pthread_t thread;
        fo_worker *worker;
        if (fo_worker_count == FO_MOST_WORKERS) return 0;
        /* Each on a cache line of its own, which its thread watches; never freed. */
        if (posix_memalign((void **)&worker, 128, sizeof *worker) != 0) return 0;
        worker->ticket = 0;
        worker->asleep = 0;
        worker->number = fo_worker_count + 1;
        pthread_mutex_init(&worker->mutex, NULL);
        pthread_cond_init(&worker->wake, NULL);
        if (pthread_create(&thread, NULL, fo_serve, worker) != 0) {
            free(worker);
            return 0;
        }
        pthread_detach(thread);
        fo_workers[fo_worker_count++] = worker;
    }
    return 1;
}

/* Run job(0, work) here and job(1, work) to job(n - 1, work) on a worker each, all at once. */
static void fo_run_region(fo_job job, int n, void *work)
{
    fo_current = job;
    fo_work = work;
    __atomic_store_n(&fo_unfinished, n - 1, __ATOMIC_RELAXED);
    for (int i = 0; i < n - 1; i++) {
        fo_worker *worker = fo_workers[i];
        __atomic_add_fetch(&worker->ticket, 1, __ATOMIC_SEQ_CST);
        if (__atomic_load_n(&worker->asleep, __ATOMIC_SEQ_CST)) {
            pthread_mutex_lock(&worker->mutex);
            pthread_cond_signal(&worker->wake);
            pthread_mutex_unlock(&worker->mutex);
        }
    }
    job(0, work);
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

/* Run a region unless the workers are busy; return whether it ran. */
static int fo_pool_try(fo_job job, int n, void *work)
{
    int ready;
    if (pthread_mutex_trylock(&fo_region) != 0) return 0;
    ready = fo_add_workers(n);
    if (ready) fo_run_region(job, n, work);
    pthread_mutex_unlock(&fo_region);
    return ready;
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
    fo_run_region(fo_run_blas_job, n, &work);
    pthread_mutex_unlock(&fo_region);
}

/* A fork waits for the region under way. The child has no workers, and starts new ones. */
static void fo_before_fork(void) { pthread_mutex_lock(&fo_region); }
static void fo_after_fork(void) { pthread_mutex_unlock(&fo_region); }
static void fo_in_child(void)
{
    fo_worker_count = 0;
    pthread_mutex_init(&fo_region, NULL);
}

static int fo_pool_install(void)
{
    return pthread_atfork(fo_before_fork, fo_after_fork, fo_in_child);
}

#endif
#endif
