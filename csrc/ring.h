/* A ring of buffers over the waves of a file: what a step reads, changes and writes back in order.
 *
 * A wave is a contiguous part of the file. A sweep takes all of them in their order, and the next
 * sweep begins again, so that waves are counted on for ever, and each has the buffer of its number.
 * One thread reads ahead as far as there are buffers, also into the next sweep; another writes what
 * was given back changed. Both start with the first wave that is taken, and sleep when there is
 * nothing to do. They know neither Python nor arrays. */
#ifndef FASTOPTIM_RING_H
#define FASTOPTIM_RING_H

#include <stdint.h>

enum {
    FO_BLOCK = 4096, /* what waves begin at and end with a multiple of, for direct I/O */
    FO_CUT = -1,     /* in the place of a system's error: the file ends before the wave does */
};

typedef struct {
    int64_t at; /* where in the file it begins */
    int64_t bytes;
} fo_wave;

typedef struct fo_ring fo_ring;

/* What went wrong: the system's number or FO_CUT, 0 for nothing; and whether in writing. */
typedef struct {
    int error;
    int writing;
} fo_fault;

/* Make a ring of so many buffers over an open file, of which it keeps a descriptor of its own; NULL
 * if memory is short. Where I/O is not direct, the page cache is told to drop what was read or
 * written. */
fo_ring *fo_ring_new(int fd, int direct, const fo_wave *waves, int64_t count, int buffers);

/* End the threads, when they are done with what they are at, and close the descriptor. */
void fo_ring_stop(fo_ring *ring);

/* Free a ring. In a child of fork(), which has none of its threads and buffers, it is `lost`. */
void fo_ring_free(fo_ring *ring, int lost);

/* Wait for the next wave and return its buffer, or NULL behind a fault. */
char *fo_ring_take(fo_ring *ring);

/* Give back the wave that was taken, to be written if it was changed. */
void fo_ring_give(fo_ring *ring, int changed);

/* Wait until all is written that was given back changed; return what went wrong. */
fo_fault fo_ring_settle(fo_ring *ring);

/* How many bytes were read and written. */
void fo_ring_moved(fo_ring *ring, int64_t *read, int64_t *written);

/* Give the room of a part of a file back to the file system; return whether it could. */
int fo_punch(int fd, int64_t at, int64_t bytes);

#endif
