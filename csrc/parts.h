/* The tasks of a region, divided into a part for each of its threads.
 *
 * A thread takes the tasks of its own part, then what is left of the others'. So it meets the
 * elements that it had in the step before, some of which its core's caches still hold: that is 2 to
 * 12 % faster than one queue for all. And nobody waits for the share of a thread that has no core, as
 * it would be with fixed shares.
 *
 * With many threads, nobody looks through the parts of all. Parts that nobody can take from any more
 * are marked in a tree of two levels, where few threads write to the same line of a cache. And
 * nothing is made ready before a region: each counter says of which region it is, and starts from 0
 * with the first that comes in another. */
#ifndef FASTOPTIM_PARTS_H
#define FASTOPTIM_PARTS_H

#include "pool.h"

#include <string.h>

enum {
    FO_FAN = 8,                 /* parts in a group, and groups */
    FO_PARTS = FO_FAN * FO_FAN, /* at the most; further threads share those of others */
};

/* The number of a region in the upper half; in the lower one a number that is 0 at its start, and
 * that the tasks of no memory make overflow. It is alone on the lines of a cache that are fetched
 * together. */
typedef struct {
    _Alignas(FO_LINE) _Atomic(uint64_t) word;
} fo_counter;

typedef struct {
    uint32_t region;
    int count; /* parts */
    ptrdiff_t tasks;
    fo_counter taken[FO_PARTS]; /* of each part */
    fo_counter empty[FO_FAN];   /* the parts of each group with no task left, as bits */
    fo_counter empty_groups;
} fo_parts;

static inline uint32_t fo_read(fo_counter *counter, uint32_t region)
{
    uint64_t word = atomic_load_explicit(&counter->word, memory_order_relaxed);
    return word >> 32 == region ? (uint32_t)word : 0;
}

/* Have a counter be of a region. All who are in that region find it so afterwards. */
static inline void fo_begin(fo_counter *counter, uint32_t region)
{
    uint64_t word = atomic_load_explicit(&counter->word, memory_order_relaxed);
    if (word >> 32 != region)
        atomic_compare_exchange_strong_explicit(&counter->word, &word, (uint64_t)region << 32,
                                                memory_order_relaxed, memory_order_relaxed);
}

static inline uint32_t fo_next(fo_counter *counter, uint32_t region)
{
    fo_begin(counter, region);
    return (uint32_t)atomic_fetch_add_explicit(&counter->word, 1, memory_order_relaxed);
}

/* Set a bit, if it is not set yet. */
static inline void fo_mark(fo_counter *counter, uint32_t region, int bit)
{
    uint64_t mark = (uint64_t)1 << bit;
    if (fo_read(counter, region) & mark) return;
    fo_begin(counter, region);
    atomic_fetch_or_explicit(&counter->word, mark, memory_order_relaxed);
}

/* Return the first of n bits that is not set, from one on and around; -1 if all are. */
static inline int fo_first_unset(uint32_t bits, int n, int from)
{
    uint32_t unset = ~bits & (((uint32_t)1 << n) - 1);
    uint32_t above = unset >> from << from;
    int bit = 0;
    if (!unset) return -1;
    for (uint32_t found = above ? above : unset; !(found & 1); found >>= 1) bit++;
    return bit;
}

/* Return the parts of the calling thread, which other threads may use in its regions. */
static inline fo_parts *fo_own_parts(void)
{
    static _Thread_local fo_parts parts;
    return &parts;
}

/* Divide tasks for a region of so many threads. No thread of another region may use the parts. */
static inline void fo_divide(fo_parts *parts, ptrdiff_t tasks, int threads)
{
    ptrdiff_t most = tasks < FO_PARTS ? tasks : FO_PARTS; /* so that no part is empty */
    parts->count = threads < most ? threads : (int)most;
    parts->tasks = tasks;
    if (++parts->region == 0) { /* the numbers of regions begin again, and old ones must not fit */
        memset(parts->taken, 0, sizeof parts->taken);
        memset(parts->empty, 0, sizeof parts->empty);
        memset(&parts->empty_groups, 0, sizeof parts->empty_groups);
        parts->region = 1;
    }
}

static inline ptrdiff_t fo_first_task(const fo_parts *parts, int part)
{
    return (ptrdiff_t)part * parts->tasks / parts->count;
}

/* Return a part that may have tasks left, one near to `part`; -1 if none has. */
static inline int fo_find_part(fo_parts *parts, int part)
{
    int groups = (parts->count + FO_FAN - 1) / FO_FAN, group = part / FO_FAN;
    while (group >= 0) {
        int first = group * FO_FAN;
        int size = parts->count - first < FO_FAN ? parts->count - first : FO_FAN;
        uint32_t empty = fo_read(&parts->empty[group], parts->region);
        int found = fo_first_unset(empty, size, part % FO_FAN % size);
        if (found >= 0) return first + found;
        fo_mark(&parts->empty_groups, parts->region, group);
        group = fo_first_unset(fo_read(&parts->empty_groups, parts->region), groups, group);
    }
    return -1;
}

/* Take a task that nobody has taken; -1 if there is none. `part` is where the thread looks first: at
 * the beginning the number of the thread, then what the call before has left there. */
static inline ptrdiff_t fo_take(fo_parts *parts, int *part)
{
    *part %= parts->count;
    do {
        ptrdiff_t first = fo_first_task(parts, *part);
        ptrdiff_t size = fo_first_task(parts, *part + 1) - first;
        ptrdiff_t k = fo_next(&parts->taken[*part], parts->region);
        if (k < size - 1) return first + k;
        fo_mark(&parts->empty[*part / FO_FAN], parts->region, *part % FO_FAN);
        if (k == size - 1) return first + k;
        *part = fo_find_part(parts, *part);
    } while (*part >= 0);
    return -1;
}

#endif
