/* The operating system's threads, locks and conditions. */
#ifndef FASTOPTIM_SYSTEM_H
#define FASTOPTIM_SYSTEM_H

#include <stddef.h>

enum { FO_STACK = 2 << 20 }; /* bytes, at the least: musl's default is 128 KiB */

#ifdef _WIN32

#include <windows.h>

#include <process.h>

#define LOCK_INIT SRWLOCK_INIT
#define CONDITION_INIT CONDITION_VARIABLE_INIT
typedef SRWLOCK lock_t;
typedef CONDITION_VARIABLE condition_t;
typedef HANDLE thread_t;
typedef unsigned served_t;
#define SERVE __stdcall

static inline void lock(lock_t *l) { AcquireSRWLockExclusive(l); }
static inline int try_lock(lock_t *l) { return TryAcquireSRWLockExclusive(l); }
static inline void unlock(lock_t *l) { ReleaseSRWLockExclusive(l); }
static inline void wait_for(condition_t *c, lock_t *l)
{
    SleepConditionVariableSRW(c, l, INFINITE, 0);
}
static inline void wake(condition_t *c) { WakeConditionVariable(c); }
static inline void wake_all(condition_t *c) { WakeAllConditionVariable(c); }
static inline void yield_core(void) { SwitchToThread(); }

static inline int start_thread(thread_t *thread, served_t(SERVE *serve)(void *), void *argument)
{
    const unsigned reserve = STACK_SIZE_PARAM_IS_A_RESERVATION;
    *thread = (HANDLE)_beginthreadex(NULL, FO_STACK, serve, argument, reserve, NULL);
    return *thread != 0;
}

static inline void join_thread(thread_t thread)
{
    WaitForSingleObject(thread, INFINITE);
    CloseHandle(thread);
}

static inline void detach_thread(thread_t thread) { CloseHandle(thread); }

#else

#include <pthread.h>
#include <sched.h>
#include <signal.h>

#define LOCK_INIT PTHREAD_MUTEX_INITIALIZER
#define CONDITION_INIT PTHREAD_COND_INITIALIZER
typedef pthread_mutex_t lock_t;
typedef pthread_cond_t condition_t;
typedef pthread_t thread_t;
typedef void *served_t;
#define SERVE

static inline void lock(lock_t *l) { pthread_mutex_lock(l); }
static inline int try_lock(lock_t *l) { return pthread_mutex_trylock(l) == 0; }
static inline void unlock(lock_t *l) { pthread_mutex_unlock(l); }
static inline void wait_for(condition_t *c, lock_t *l) { pthread_cond_wait(c, l); }
static inline void wake(condition_t *c) { pthread_cond_signal(c); }
static inline void wake_all(condition_t *c) { pthread_cond_broadcast(c); }
static inline void yield_core(void) { sched_yield(); }

/* Start a thread that blocks all signals, which the program's own threads are to handle, but not
 * those of its own faults. Return whether it runs. */
static inline int start_thread(thread_t *thread, served_t(SERVE *serve)(void *), void *argument)
{
    const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP};
    sigset_t blocked, before;
    pthread_attr_t attributes;
    size_t stack;
    int error;
    if (pthread_attr_init(&attributes) != 0) return 0;
    if (pthread_attr_getstacksize(&attributes, &stack) == 0 && stack < FO_STACK)
        pthread_attr_setstacksize(&attributes, FO_STACK);
    sigfillset(&blocked);
    for (size_t k = 0; k < sizeof faults / sizeof *faults; k++) sigdelset(&blocked, faults[k]);
    pthread_sigmask(SIG_SETMASK, &blocked, &before);
    error = pthread_create(thread, &attributes, serve, argument);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    return error == 0;
}

static inline void join_thread(thread_t thread) { pthread_join(thread, NULL); }
static inline void detach_thread(thread_t thread) { pthread_detach(thread); }

#endif

#endif
