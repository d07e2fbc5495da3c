/* Calls to the pool of csrc/pool.h from several threads at once, for the thread sanitizer.
 *
 * Each thread has rows of its own, to which the workers add in regions and in BLAS's callback. With
 * an argument they also all add to one row, outside of the pool: a race that must be noticed. */
#include "pool.h"

enum { CALLERS = 6, ROUNDS = 1000, MOST = 4 };

static long sums[CALLERS][MOST], shared;
static int race;

static void add(int i, void *row) { ((long *)row)[i] += 1; }

static void add_in_slot(int slot, void *sum, int buffer)
{
    (void)buffer;
    *(long *)sum += slot >= fo_blas_slots - MOST;
}

static void *call(void *row)
{
    for (int round = 0; round < ROUNDS; round++) {
        int n = 2 + round % (MOST - 1);
        if (round % 2) {
            fo_blas_run(1, add_in_slot, n, sizeof(long), row, 0);
        } else if (!fo_pool_try(add, n, row)) {
            for (int i = 0; i < n; i++) add(i, row); /* the workers are busy */
        }
        if (race) shared++;
        if (round % 100 == 0) nanosleep(&(struct timespec){0, 2 * fo_spin}, NULL); /* they sleep */
    }
    return NULL;
}

int main(int argc, char **argv)
{
    pthread_t threads[CALLERS];
    long total = 0, expected = 0;
    (void)argv;
    race = argc > 1;
    fo_blas_slots = 64;
    if (fo_pool_install() != 0 || !fo_pool_grow(2)) return 1;
    for (int k = 0; k < CALLERS; k++) pthread_create(&threads[k], NULL, call, sums[k]);
    for (int k = 0; k < CALLERS; k++) pthread_join(threads[k], NULL);
    for (int k = 0; k < CALLERS; k++)
        for (int i = 0; i < MOST; i++) total += sums[k][i];
    for (int round = 0; round < ROUNDS; round++) expected += CALLERS * (2 + round % (MOST - 1));
    printf("pool: %ld of %ld added\n", total, expected);
    return total != expected;
}
