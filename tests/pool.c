/* Calls to the pool of csrc/pool.h from several threads at once, for the thread sanitizer.
 *
 * Each thread has a row of its own, to which the workers add in regions and in BLAS's callback. With
 * an argument they also all add to one number, outside of the pool: a race that must be noticed. */
#include "pool.h"

enum { CALLERS = 6, ROUNDS = 1000, MOST = 4 };

static long sums[CALLERS][MOST], shared;
static int race;

typedef struct {
    long *row;
    int n, next;
} Tasks;

/* Add to what nobody has taken yet, whoever of the workers has begun. */
static void add(int i, void *work)
{
    Tasks *tasks = (Tasks *)work;
    while ((i = __atomic_fetch_add(&tasks->next, 1, __ATOMIC_RELAXED)) < tasks->n)
        tasks->row[i] += 1;
}

static void add_in_slot(int slot, void *sum, int buffer)
{
    (void)buffer;
    *(long *)sum += slot >= fo_blas_slots - MOST;
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
            fo_set_spin(round % 200 ? 0 : FO_SPIN);
            nanosleep(&(struct timespec){0, 2 * FO_SPIN}, NULL); /* they sleep */
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
