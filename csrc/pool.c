#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* for sets of CPUs */
#endif
#include "clock.h"
#include "pool.h"
#include "system.h"

#include <stdio.h>
#include <stdlib.h>

#ifndef _WIN32
#include <unistd.h>
#endif

enum {
    MOST_WORKERS = 1024,
    MOST_CPUS = 8192, /* that a set of CPUs can name */
};

/* Tell the core that this thread only waits. On most cores of aarch64 `yield` does nothing; `isb`
 * takes about as long as x86's pause. */
static void relax(void)
{
#if defined(_MSC_VER)
    YieldProcessor();
#elif defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("isb" ::: "memory");
#endif
}

/* -- Workers ----------------------------------------------------------------------------------- */

/* The threads of a region form a tree: its caller is thread 0, and thread i has the children
 * FAN * i + 1 to FAN * i + FAN. Each thread offers the region to its children before it does its own
 * job, and is done when they are. So nobody wakes more than FAN threads or waits for more, and the
 * last of n threads begins after log(n) levels. With fewer children there are more levels, and from
 * one to the next a sleeping thread takes as long as to wake up dozens. */
enum { FAN = 8 };

typedef struct {
    fo_job job;
    void *work;
    int n;   /* threads */
    int all; /* whether each of them must run its job */
} region_t;

/* What a worker has to do with the region that it was offered last. A region that does not wait for
 * workers takes offers back. */
enum { NOTHING, OFFERED, TAKEN };

/* Each is on cache lines of its own, which nobody touches but its thread and the parent. */
typedef struct {
    _Alignas(FO_LINE) atomic_uint ticket; /* grows by one with every offer */
    atomic_int state;
    atomic_int asleep;
    region_t region;
    thread_t thread;
    lock_t lock;
    condition_t awaken;
} worker_t;

int fo_forks = 0;
static _Atomic(int64_t) awake_ns = FO_AWAKE_NS;
static int blas_slots;

static worker_t workers[MOST_WORKERS];

/* What callers write, apart from the lines that workers read. */
static struct {
    _Alignas(FO_LINE) lock_t lock; /* held in a region; guards the rest, and the tree of workers */
    int workers;                   /* that were started */
} pool = {.lock = LOCK_INIT};

int64_t fo_set_awake_ns(int64_t ns)
{
    return atomic_exchange_explicit(&awake_ns, ns, memory_order_relaxed);
}

static void wake_up(worker_t *worker)
{
    lock(&worker->lock);
    atomic_store(&worker->asleep, 0); /* the next offers need not wake it again */
    unlock(&worker->lock);
    wake(&worker->awaken);
}

static void offer(worker_t *worker, const region_t *region)
{
    worker->region = *region;
    atomic_store_explicit(&worker->state, OFFERED, memory_order_release);
    atomic_fetch_add(&worker->ticket, 1);
    if (atomic_load(&worker->asleep)) wake_up(worker);
}

/* Go from the state of an offer to another, unless the other side has done so before. */
static int answer(worker_t *worker, int state)
{
    int offered = OFFERED;
    return atomic_compare_exchange_strong_explicit(&worker->state, &offered, state,
                                                   memory_order_acq_rel, memory_order_relaxed);
}

static void wait_until_done(worker_t *worker)
{
    for (int k = 1; atomic_load_explicit(&worker->state, memory_order_acquire) != NOTHING; k++) {
        if (k % 64 == 0) yield_core();
        relax();
    }
}

/* Do what thread i has to do in a region. */
static void take_part(int i, const region_t *region)
{
    int begin = FAN * i, end = region->n - 1; /* of the children, as workers */
    if (end > begin + FAN) end = begin + FAN;
    for (int k = begin; k < end; k++) offer(&workers[k], region);
    region->job(i, region->work);
    for (int k = begin; k < end && !region->all; k++) answer(&workers[k], NOTHING);
    for (int k = begin; k < end; k++) wait_until_done(&workers[k]);
}

static int ticket_comes_soon(worker_t *worker, unsigned seen)
{
    int64_t end = fo_now_ns() + atomic_load_explicit(&awake_ns, memory_order_relaxed);
    do {
        for (int k = 0; k < 64; k++) {
            if (atomic_load_explicit(&worker->ticket, memory_order_acquire) != seen) return 1;
            relax();
        }
        yield_core(); /* to whoever else wants it */
    } while (fo_now_ns() < end);
    return 0;
}

/* Whoever has found the worker asleep may wake it late, when it has served the offer and sleeps
 * again: so it says anew that it does each time before it waits. */
static void sleep_until_ticket(worker_t *worker, unsigned seen)
{
    lock(&worker->lock);
    for (;;) {
        atomic_store(&worker->asleep, 1);
        if (atomic_load(&worker->ticket) != seen) break;
        wait_for(&worker->awaken, &worker->lock);
    }
    atomic_store(&worker->asleep, 0);
    unlock(&worker->lock);
}

static served_t SERVE serve(void *argument)
{
    worker_t *worker = (worker_t *)argument;
    for (unsigned seen = 0;; seen++) {
        if (!ticket_comes_soon(worker, seen)) sleep_until_ticket(worker, seen);
        if (!answer(worker, TAKEN)) continue;
        take_part((int)(worker - workers) + 1, &worker->region);
        atomic_store_explicit(&worker->state, NOTHING, memory_order_release);
    }
    return (served_t)0;
}

static int start(worker_t *worker)
{
    worker->lock = (lock_t)LOCK_INIT;
    worker->awaken = (condition_t)CONDITION_INIT;
    if (!start_thread(&worker->thread, serve, worker)) return 0;
    detach_thread(worker->thread);
    return 1;
}

/* Start workers until jobs can run on so many threads, the caller's included. */
static int add_workers(int threads)
{
    while (pool.workers < threads - 1) {
        worker_t *worker;
        if (pool.workers == MOST_WORKERS) return 0;
        worker = &workers[pool.workers];
        atomic_init(&worker->ticket, 0);
        atomic_init(&worker->state, NOTHING);
        atomic_init(&worker->asleep, 0);
        if (!start(worker)) return 0;
        pool.workers++;
    }
    return 1;
}

/* -- CPUs -------------------------------------------------------------------------------------- */

#ifdef __linux__

enum {
    SETS = MOST_CPUS / CPU_SETSIZE,
    JUST_NOW_NS = 5000, /* between the question how many threads may run a step, and its region */
};

typedef struct {
    cpu_set_t mask[SETS];
    int count; /* 0: the system has not said which */
    int64_t when;
} cpus_t;

static _Thread_local cpus_t own; /* of this thread, when it asked last */
static cpu_set_t followed[SETS]; /* where workers run, from the first on */
static int following;            /* how many of them */

static void ask_for_cpus(void)
{
    cpu_set_t mask[SETS];
    CPU_ZERO_S(sizeof mask, mask);
    if (sched_getaffinity(0, sizeof mask, mask) != 0) {
        own.count = 0;
    } else if (own.count == 0 || !CPU_EQUAL_S(sizeof mask, mask, own.mask)) {
        for (int i = 0; i < SETS; i++) own.mask[i] = mask[i];
        own.count = CPU_COUNT_S(sizeof mask, mask);
    }
    own.when = fo_now_ns();
}

int fo_cpus(void)
{
    ask_for_cpus();
    return own.count ? own.count : (int)sysconf(_SC_NPROCESSORS_ONLN);
}

/* Let workers run where the caller may run, which need not be where they were started. To ask the
 * system takes as long as the smallest steps, so it is asked once for a step. */
static void follow(int n)
{
    if (fo_now_ns() - own.when > JUST_NOW_NS) ask_for_cpus();
    if (own.count == 0) return;
    if (n <= following && CPU_EQUAL_S(sizeof own.mask, own.mask, followed)) return;
    for (int i = 0; i < n; i++)
        pthread_setaffinity_np(workers[i].thread, sizeof own.mask, own.mask);
    for (int i = 0; i < SETS; i++) followed[i] = own.mask[i];
    following = n;
}

static void follow_anew(void) { following = 0; }

#elif defined(_WIN32)

static void follow(int n) { (void)n; } /* threads keep to the CPUs of their process */

int fo_cpus(void)
{
    DWORD_PTR mine = 0, all;
    int count = 0;
    GetProcessAffinityMask(GetCurrentProcess(), &mine, &all);
    for (; mine; mine &= mine - 1) count++;
    /* The mask is empty for a process that runs on several groups of 64 CPUs. */
    return count ? count : (int)GetActiveProcessorCount(ALL_PROCESSOR_GROUPS);
}

#else

static void follow(int n) { (void)n; } /* macOS binds no thread to CPUs */
static void follow_anew(void) {}

int fo_cpus(void) { return (int)sysconf(_SC_NPROCESSORS_ONLN); }
#endif

/* -- Regions ----------------------------------------------------------------------------------- */

static void run_region(fo_job job, int n, void *work, int all)
{
    region_t region = {job, work, n, all};
    follow(n - 1);
    take_part(0, &region);
}

int fo_pool_grow(int threads)
{
    int grown;
    lock(&pool.lock);
    grown = add_workers(threads);
    unlock(&pool.lock);
    return grown;
}

int fo_pool_try(fo_job job, int n, void *work)
{
    if (!try_lock(&pool.lock)) return 0;
    if (!add_workers(n)) n = pool.workers + 1;
    run_region(job, n, work, 0);
    unlock(&pool.lock);
    return 1;
}

int fo_pool_run(fo_job job, int n, void *work)
{
    int grown;
    lock(&pool.lock);
    grown = add_workers(n);
    if (grown) run_region(job, n, work, 1);
    unlock(&pool.lock);
    return grown;
}

/* -- OpenBLAS's products ----------------------------------------------------------------------- */

typedef struct {
    fo_blas_job job;
    size_t size;
    char *data;
    int buffer;
} blas_work;

/* A slot names a work buffer and a mailbox of one of OpenBLAS's own threads. Those count from 0, and
 * still serve the factorization of matrices, so jobs get the last slots, which are nobody's. */
static void run_blas_job(int i, void *work)
{
    blas_work *w = (blas_work *)work;
    w->job(blas_slots - 1 - i, w->data + (size_t)i * w->size, w->buffer);
}

void fo_set_blas_slots(int slots) { blas_slots = slots; }

/* Calls from several threads take turns, since they would share the buffers. */
void fo_blas_run(int sync, fo_blas_job job, int n, size_t size, void *data, int buffer)
{
    blas_work work = {job, size, (char *)data, buffer};
    (void)sync;
    if (!fo_pool_run(run_blas_job, n, &work)) {
        fprintf(stderr, "fastoptim: cannot start the %d threads of a product\n", n - 1);
        abort(); /* OpenBLAS ends the process too when it cannot start its threads */
    }
}

/* -- Forks ------------------------------------------------------------------------------------- */

#ifdef _WIN32

int fo_pool_install(void) { return 0; }

#else

/* A fork waits for the region under way. The child has no workers, and starts new ones. */
static void before_fork(void) { lock(&pool.lock); }
static void after_fork(void) { unlock(&pool.lock); }

static void in_child(void)
{
    fo_forks++;
    pool.workers = 0;
    follow_anew();
    pthread_mutex_init(&pool.lock, NULL);
}

int fo_pool_install(void) { return pthread_atfork(before_fork, after_fork, in_child); }

#endif
