/* Calls to the pool of csrc/pool.c from several threads at once, for the thread sanitizer.
 *
 * Each caller has a row of its own, to which the workers add in regions and in BLAS's callback. With
 * an argument they also all add to one number, outside of the pool: a race that must be noticed. */
#include "parts.h"

#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <time.h>

/* So many threads that the children of the caller have children, too. */
enum { CALLERS = 6, ROUNDS = 1000, MOST = 24, SLOTS = 64 };

typedef struct {
    long sum;
    atomic_int *met; /* jobs of a product that have begun */
    int jobs;        /* of that product */
} cell_t;

typedef struct {
    cell_t *row;
    fo_parts *parts;
} tasks_t;

static cell_t rows[CALLERS][MOST];
static long shared;
static int race;

/* Write to more of the stack than threads of musl or macOS have by default. */
static void use_stack(void)
{
    volatile char deep[3 << 19];
    for (size_t k = 0; k < sizeof deep; k += 1024) deep[k] = 0;
}

/* Add to what nobody has taken yet, whoever of the workers has begun. */
static void add(int i, void *work)
{
    tasks_t *tasks = (tasks_t *)work;
    int part = i;
    if (i > 0) use_stack();
    for (ptrdiff_t k = fo_take(tasks->parts, &part); k >= 0; k = fo_take(tasks->parts, &part))
        tasks->row[k].sum++;
}

/* Wait for the other jobs, as those of OpenBLAS do. */
static void add_in_slot(int slot, void *data, int buffer)
{
    cell_t *cell = (cell_t *)data;
    (void)buffer;
    atomic_fetch_add(cell->met, 1);
    while (atomic_load(cell->met) < cell->jobs) sched_yield();
    cell->sum += slot >= SLOTS - MOST && slot < SLOTS;
}

static void multiply(cell_t *row, int n)
{
    atomic_int met = 0;
    for (int i = 0; i < n; i++) {
        row[i].met = &met;
        row[i].jobs = n;
    }
    fo_blas_run(1, add_in_slot, n, sizeof *row, row, 0);
}

static void step(cell_t *row, int tasks, int threads)
{
    tasks_t work = {row, fo_own_parts()};
    fo_divide(work.parts, tasks, threads);
    if (!fo_pool_try(add, threads, &work)) add(0, &work); /* the workers are busy */
}

static void *call(void *row)
{
    for (int round = 0; round < ROUNDS; round++) {
        int n = 2 + round % (MOST - 1);
        if (round % 5 == 0)
            multiply((cell_t *)row, n);
        else
            step((cell_t *)row, n, 2 + round % 7);
        if (race) shared++;
        if (round % 100 == 0) {
            fo_set_awake_ns(round % 200 ? 0 : FO_AWAKE_NS);
            nanosleep(&(struct timespec){0, 2 * FO_AWAKE_NS}, NULL); /* they sleep */
        }
    }
    return NULL;
}

int main(int argc, char **argv)
{
    pthread_t threads[CALLERS];
    long total = 0, expected = 0;
    (void)argv;
    race = argc > 1;
    fo_set_blas_slots(SLOTS);
    if (fo_pool_install() != 0 || !fo_pool_grow(2) || fo_cpus() < 1) return 1;
    for (int k = 0; k < CALLERS; k++) pthread_create(&threads[k], NULL, call, rows[k]);
    for (int k = 0; k < CALLERS; k++) pthread_join(threads[k], NULL);
    for (int k = 0; k < CALLERS; k++)
        for (int i = 0; i < MOST; i++) total += rows[k][i].sum;
    for (int round = 0; round < ROUNDS; round++) expected += CALLERS * (2 + round % (MOST - 1));
    printf("pool: %ld of %ld added\n", total, expected);
    return total != expected;
}
