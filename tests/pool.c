/* Calls to the pool of csrc/pool.c from several threads at once, for the thread sanitizer.
 *
 * Each thread has a row of its own, to which the workers add in regions and in BLAS's callback. With
 * an argument they also all add to one number, outside of the pool: a race that must be noticed. */
#include "pool.h"

#include <pthread.h>
#include <stdio.h>
#include <time.h>

enum { CALLERS = 6, ROUNDS = 1000, MOST = 4, SLOTS = 64 };

static long sums[CALLERS][MOST], shared;
static int race;

typedef struct {
    long *row;
    ptrdiff_t n, next;
} Tasks;

/* Write to more of the stack than threads of musl or macOS have by default. */
static void use_stack(void)
{
    volatile char deep[3 << 19];
    for (size_t k = 0; k < sizeof deep; k += 1024) deep[k] = 0;
}

/* Add to what nobody has taken yet, whoever of the workers has begun. */
static void add(int i, void *work)
{
    Tasks *tasks = (Tasks *)work;
    ptrdiff_t k;
    if (i > 0) use_stack();
    while ((k = fo_take(&tasks->next)) < tasks->n) tasks->row[k] += 1;
}

static void add_in_slot(int slot, void *sum, int buffer)
{
    (void)buffer;
    *(long *)sum += slot >= SLOTS - MOST && slot < SLOTS;
}

static void *call(void *row)
{
    for (int round = 0; round < ROUNDS; round++) {
        int n = 2 + round % (MOST - 1);
        Tasks tasks = {row, n, 0};
        if (round % 2) {
            fo_blas_run(1, add_in_slot, n, sizeof(long), row, 0);
        } else if (!fo_pool_try(add, n, &tasks)) {
            add(0, &tasks); /* the workers are busy */
        }
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
    for (int k = 0; k < CALLERS; k++) pthread_create(&threads[k], NULL, call, sums[k]);
    for (int k = 0; k < CALLERS; k++) pthread_join(threads[k], NULL);
    for (int k = 0; k < CALLERS; k++)
        for (int i = 0; i < MOST; i++) total += sums[k][i];
    for (int round = 0; round < ROUNDS; round++) expected += CALLERS * (2 + round % (MOST - 1));
    printf("pool: %ld of %ld added\n", total, expected);
    return total != expected;
}
