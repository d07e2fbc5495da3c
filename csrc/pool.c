#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* for sets of CPUs */
#endif
#include "clock.h"
#include "pool.h"

#include <stdio.h>
#include <stdlib.h>

enum {
    MOST_WORKERS = 1024,
    STACK = 2 << 20,  /* bytes: OpenBLAS's jobs run on our workers, and musl's default is 128 KiB */
    LINE = 128,       /* bytes that caches fetch together */
    MOST_CPUS = 8192, /* that a set of CPUs can name */
};

/* -- The operating system's threads ------------------------------------------------------------ */

#ifdef _WIN32

#include <windows.h>

#include <process.h>

#define LOCK_INIT SRWLOCK_INIT
typedef SRWLOCK lock_t;
typedef CONDITION_VARIABLE condition_t;
typedef unsigned served_t;
#define SERVE __stdcall

static void lock(lock_t *l) { AcquireSRWLockExclusive(l); }
static int try_lock(lock_t *l) { return TryAcquireSRWLockExclusive(l); }
static void unlock(lock_t *l) { ReleaseSRWLockExclusive(l); }
static void wait_for(condition_t *c, lock_t *l) { SleepConditionVariableSRW(c, l, INFINITE, 0); }
static void wake(condition_t *c) { WakeConditionVariable(c); }
static void yield_core(void) { SwitchToThread(); }

#else

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <unistd.h>

#define LOCK_INIT PTHREAD_MUTEX_INITIALIZER
typedef pthread_mutex_t lock_t;
typedef pthread_cond_t condition_t;
typedef void *served_t;
#define SERVE

static void lock(lock_t *l) { pthread_mutex_lock(l); }
static int try_lock(lock_t *l) { return pthread_mutex_trylock(l) == 0; }
static void unlock(lock_t *l) { pthread_mutex_unlock(l); }
static void wait_for(condition_t *c, lock_t *l) { pthread_cond_wait(c, l); }
static void wake(condition_t *c) { pthread_cond_signal(c); }
static void yield_core(void) { sched_yield(); }

#endif

/* Tell the core that this thread only waits. */
static void relax(void)
{
#if defined(_MSC_VER)
    YieldProcessor();
#elif defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

/* -- Workers ----------------------------------------------------------------------------------- */

/* Each is on cache lines of its own, which its thread watches. */
typedef struct {
    _Alignas(LINE) atomic_uint ticket; /* grows by one with every job */
    atomic_int offered;                /* whether the job is still to be taken */
    atomic_int asleep;
#ifndef _WIN32
    pthread_t thread;
#endif
    lock_t lock;
    condition_t awaken;
} worker_t;

int fo_forks = 0;
static _Atomic(int64_t) awake_ns = FO_AWAKE_NS;
static int blas_slots;

static lock_t region = LOCK_INIT; /* guards all that follows */
static worker_t workers[MOST_WORKERS];
static int worker_count;
static fo_job current_job;
static void *current_work;
static atomic_int unfinished;

int64_t fo_set_awake_ns(int64_t ns)
{
    return atomic_exchange_explicit(&awake_ns, ns, memory_order_relaxed);
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

/* Take the job that a worker is offered, unless its region has taken it back. */
static int claim(worker_t *worker)
{
    int offered = 1;
    return atomic_compare_exchange_strong_explicit(&worker->offered, &offered, 0,
                                                   memory_order_acq_rel, memory_order_relaxed);
}

static served_t SERVE serve(void *argument)
{
    worker_t *worker = (worker_t *)argument;
    for (unsigned seen = 0;; seen++) {
        if (!ticket_comes_soon(worker, seen)) {
            lock(&worker->lock);
            atomic_store(&worker->asleep, 1);
            while (atomic_load(&worker->ticket) == seen) wait_for(&worker->awaken, &worker->lock);
            atomic_store(&worker->asleep, 0);
            unlock(&worker->lock);
        }
        if (!claim(worker)) continue;
        current_job((int)(worker - workers) + 1, current_work);
        atomic_fetch_sub_explicit(&unfinished, 1, memory_order_release);
    }
    return (served_t)0;
}

#ifdef _WIN32

static int start(worker_t *worker)
{
    const unsigned reserve = STACK_SIZE_PARAM_IS_A_RESERVATION;
    uintptr_t thread;
    InitializeSRWLock(&worker->lock);
    InitializeConditionVariable(&worker->awaken);
    thread = _beginthreadex(NULL, STACK, serve, worker, reserve, NULL);
    return thread != 0 && CloseHandle((HANDLE)thread);
}

#else

/* Start a thread that blocks all signals, which the program's own threads are to handle, but not
 * those of its own faults. */
static int start(worker_t *worker)
{
    const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP};
    sigset_t blocked, before;
    pthread_attr_t attributes;
    size_t stack;
    int error;
    pthread_mutex_init(&worker->lock, NULL);
    pthread_cond_init(&worker->awaken, NULL);
    if (pthread_attr_init(&attributes) != 0) return 0;
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    if (pthread_attr_getstacksize(&attributes, &stack) == 0 && stack < STACK)
        pthread_attr_setstacksize(&attributes, STACK);
    sigfillset(&blocked);
    for (size_t k = 0; k < sizeof faults / sizeof *faults; k++) sigdelset(&blocked, faults[k]);
    pthread_sigmask(SIG_SETMASK, &blocked, &before);
    error = pthread_create(&worker->thread, &attributes, serve, worker);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    return error == 0;
}

#endif

/* Start workers until jobs can run on so many threads, the caller's included. */
static int add_workers(int threads)
{
    while (worker_count < threads - 1) {
        worker_t *worker;
        if (worker_count == MOST_WORKERS) return 0;
        worker = &workers[worker_count];
        atomic_init(&worker->ticket, 0);
        atomic_init(&worker->offered, 0);
        atomic_init(&worker->asleep, 0);
        if (!start(worker)) return 0;
        worker_count++;
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

/* Run job(0, work) here and job(1, work) to job(n - 1, work) on a worker each: all of them at once,
 * or those that have begun by the time the caller is done. */
static void run_region(fo_job job, int n, void *work, int all)
{
    follow(n - 1);
    current_job = job;
    current_work = work;
    atomic_store_explicit(&unfinished, n - 1, memory_order_relaxed);
    for (int i = 0; i < n - 1; i++) {
        worker_t *worker = &workers[i];
        atomic_store_explicit(&worker->offered, 1, memory_order_release);
        atomic_fetch_add(&worker->ticket, 1);
        if (atomic_load(&worker->asleep)) {
            lock(&worker->lock);
            wake(&worker->awaken);
            unlock(&worker->lock);
        }
    }
    job(0, work);
    for (int i = 0; i < n - 1 && !all; i++)
        if (claim(&workers[i])) atomic_fetch_sub_explicit(&unfinished, 1, memory_order_relaxed);
    for (int k = 0; atomic_load_explicit(&unfinished, memory_order_acquire) > 0; k++) {
        if (k % 64 == 63) yield_core();
        relax();
    }
}

int fo_pool_grow(int threads)
{
    int grown;
    lock(&region);
    grown = add_workers(threads);
    unlock(&region);
    return grown;
}

int fo_pool_try(fo_job job, int n, void *work)
{
    if (!try_lock(&region)) return 0;
    if (!add_workers(n)) n = worker_count + 1;
    run_region(job, n, work, 0);
    unlock(&region);
    return 1;
}

int fo_pool_run(fo_job job, int n, void *work)
{
    int grown;
    lock(&region);
    grown = add_workers(n);
    if (grown) run_region(job, n, work, 1);
    unlock(&region);
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
static void before_fork(void) { lock(&region); }
static void after_fork(void) { unlock(&region); }

static void in_child(void)
{
    fo_forks++;
    worker_count = 0;
    follow_anew();
    pthread_mutex_init(&region, NULL);
}

int fo_pool_install(void) { return pthread_atfork(before_fork, after_fork, in_child); }

#endif
