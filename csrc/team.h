/* Threads that stay awake from one job to the next: what a program can have that keeps the cores
 * to itself. Nobody else's jobs run on them and nothing has to wake them, so that to share out a
 * job costs some hundred cycles.
 *
 * The caller brings the threads, when it has offered a part to a seat that is empty: each calls
 * fo_serve for its seat, and leaves by itself once nothing has come for some milliseconds. */
#ifndef FASTOPTIM_TEAM_H
#define FASTOPTIM_TEAM_H

#include <stdatomic.h>

#ifdef _WIN32
#include <windows.h>
#else
#include <sched.h>
#endif

enum {
    FO_SEATS = 256,
    /* How often a thread looks for a job, or the caller for the end of one: for some 10 us without a
     * break, then with others in between, and in the end a thread leaves. */
    FO_ALONE = 200,
    FO_PATIENCE = 5000,
};

enum { FO_EMPTY, FO_READY, FO_AT_WORK };

typedef struct {
    _Alignas(128) atomic_int state; /* on cache lines of its own, which its thread watches */
} fo_seat;

typedef void (*fo_part)(int i, int threads, void *work); /* what the i-th of some threads does */

typedef struct {
    fo_seat seat[FO_SEATS]; /* the first is the caller's own, and not used */
    fo_part part;
    int threads;
    void *work;
} fo_team;

static inline void fo_look_again(int looks)
{
#ifdef _WIN32
    YieldProcessor();
    if (looks > FO_ALONE) SwitchToThread();
#else
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("isb"); /* `yield` takes hardly any time there */
#endif
    if (looks > FO_ALONE) sched_yield();
#endif
}

/* Do the parts of a seat, until none has come for some time. */
static inline void fo_serve(fo_team *team, int i)
{
    atomic_int *state = &team->seat[i].state;
    for (int looks = 0;; looks++) {
        int found = atomic_load_explicit(state, memory_order_acquire);
        if (found == FO_AT_WORK) {
            team->part(i, team->threads, team->work);
            atomic_store_explicit(state, FO_READY, memory_order_release);
            looks = 0;
        } else if (looks >= FO_PATIENCE && atomic_compare_exchange_strong(state, &found, FO_EMPTY))
            return; /* unless a part has come in this moment */
        fo_look_again(looks);
    }
}

/* Offer its part to a seat; return 0 if no thread is there, and the caller is to bring one. */
static inline int fo_offer(fo_team *team, int i)
{
    return atomic_exchange_explicit(&team->seat[i].state, FO_AT_WORK, memory_order_acq_rel)
        == FO_READY;
}

/* Take back what was offered to a seat for which there is no thread. */
static inline void fo_take_back(fo_team *team, int i)
{
    atomic_store_explicit(&team->seat[i].state, FO_EMPTY, memory_order_release);
}

/* Wait until the threads in the seats below n have done their parts. */
static inline void fo_gather(fo_team *team, int n)
{
    for (int i = 1; i < n; i++) {
        atomic_int *state = &team->seat[i].state;
        int looks = 0;
        while (atomic_load_explicit(state, memory_order_acquire) == FO_AT_WORK) {
            fo_look_again(looks);
            if (looks <= FO_ALONE) looks++;
        }
    }
}

#endif
