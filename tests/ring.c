/* Sweeps of the ring of csrc/ring.c over a file, for the thread sanitizer.
 *
 * Each sweep adds to every number in the file; a shorter one is left out in between, and then the
 * file is cut short. Two rings have a file each, in a thread each. */
#include "ring.h"
#include "system.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef _WIN32
#include <io.h>
#define shorten _chsize
#else
#include <unistd.h>
#define shorten ftruncate
#endif

enum { WAVES = 9, NUMBERS = 2048, SWEEPS = 200, BUFFERS = 4 };

static int failures;

static void expect(int right, const char *what)
{
    if (right) return;
    fprintf(stderr, "expected %s\n", what);
    failures++;
}

/* Take so many waves, and add to their numbers; return whether all were there, as they should be. */
static int sweep(fo_ring *ring, int waves, int before, int change)
{
    for (int wave = 0; wave < waves; wave++) {
        int *numbers = (int *)(void *)fo_ring_take(ring);
        if (!numbers) return 0;
        for (int k = 0; k < NUMBERS; k++) {
            if (numbers[k] != before + wave) return 0;
            numbers[k] += change;
        }
        fo_ring_give(ring, change);
    }
    return 1;
}

static served_t SERVE run(void *argument)
{
    fo_wave waves[WAVES];
    int64_t read, written;
    fo_ring *ring;
    int numbers[NUMBERS];
    FILE *file = tmpfile();
    (void)argument;
    if (!file) return (served_t)0;
    for (int wave = 0; wave < WAVES; wave++) {
        waves[wave] = (fo_wave){wave * (int64_t)sizeof numbers, sizeof numbers};
        for (int k = 0; k < NUMBERS; k++) numbers[k] = wave;
        fwrite(numbers, sizeof numbers, 1, file);
    }
    fflush(file);
    ring = fo_ring_new(fileno(file), 0, waves, WAVES, BUFFERS);
    for (int t = 0; t < SWEEPS; t++) {
        expect(sweep(ring, WAVES, t, 1), "the numbers of the last sweep");
        if (t % 3 == 0) expect(sweep(ring, WAVES, t + 1, 0), "the numbers of this sweep");
        if (t % 5 == 0) expect(fo_ring_settle(ring).error == 0, "no fault");
    }
    fo_ring_moved(ring, &read, &written);
    expect(fo_ring_settle(ring).error == 0, "no fault");
    fo_ring_moved(ring, &read, &written);
    expect(written == SWEEPS * WAVES * (int64_t)sizeof numbers, "each wave written once a sweep");
    expect(shorten(fileno(file), (int)sizeof numbers) == 0, "a file that can be cut short");
    expect(!sweep(ring, WAVES, SWEEPS, 1) || fo_ring_settle(ring).error, "a fault");
    expect(fo_ring_settle(ring).error == FO_CUT, "a file that ends too soon");
    expect(fo_ring_take(ring) == NULL, "no wave behind a fault");
    fo_ring_free(ring, 0);
    ring = fo_ring_new(fileno(file), 0, waves, 1, BUFFERS); /* of one wave, and never asked */
    fo_ring_free(ring, 0);
    fclose(file);
    return (served_t)0;
}

int main(void)
{
    thread_t other;
    expect(start_thread(&other, run, NULL), "a thread");
    run(NULL);
    join_thread(other);
    return failures > 0;
}
