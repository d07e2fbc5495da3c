/* Regions of so many threads, whose instructions bench/count_regions.py counts.
 *
 *     regions THREADS REGIONS
 *
 * All threads take part in each region, on however few cores, and each has the time to take its own
 * tasks, which do nothing. Workers do not sleep in between. */
#include "parts.h"

#include <sched.h>
#include <stdlib.h>

enum { TASKS = 4, MOST = 1024 };

static int threads;
static atomic_int arrived, taken;

static void wait_for_all(void)
{
    int last = (atomic_fetch_add(&arrived, 1) / threads + 1) * threads;
    while (atomic_load(&arrived) < last) sched_yield();
}

static void take_tasks(int i, void *parts)
{
    int part = i, own = 0;
    while (own < TASKS && fo_take((fo_parts *)parts, &part) >= 0) own++;
    wait_for_all();
    while (fo_take((fo_parts *)parts, &part) >= 0) own++;
    atomic_fetch_add(&taken, own);
}

int main(int argc, char **argv)
{
    int regions = argc > 2 ? atoi(argv[2]) : 0;
    fo_parts *parts = fo_own_parts();
    threads = argc > 2 ? atoi(argv[1]) : 0;
    if (threads < 1 || threads > MOST || fo_pool_install() != 0) return 1;
    fo_set_awake_ns(INT64_C(1000000000000));
    for (int k = 0; k < regions; k++) {
        fo_divide(parts, threads * TASKS, threads);
        if (!fo_pool_run(take_tasks, threads, parts)) return 1;
    }
    return atomic_load(&taken) != threads * TASKS * regions;
}
