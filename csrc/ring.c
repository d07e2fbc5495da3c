#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* for sync_file_range */
#endif
#define _FILE_OFFSET_BITS 64
#include "ring.h"
#include "system.h"

#include <errno.h>
#include <stdlib.h>

#ifdef _WIN32
#include <io.h>
#else
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#endif

enum {
    MOST_BUFFERS = 16,
    MOST_AT_ONCE = 1 << 30, /* bytes: no system moves more than 2 GB in one call */
};

struct fo_ring {
    lock_t lock; /* of all below that changes */
    condition_t changed;
    int64_t read, used, written; /* waves so far, over all sweeps */
    int64_t bytes_read, bytes_written;
    int dirty[MOST_BUFFERS];
    fo_fault fault;
    int quits;

    int fd, direct;
    int64_t count; /* waves of a sweep */
    int64_t room;  /* bytes of a buffer */
    int64_t ahead; /* waves between the last that is written and the last that is read, at most */
    char *buffers;
    thread_t reader, writer;
    int threads; /* that run */
    fo_wave waves[];
};

/* -- Memory and files of the system ------------------------------------------------------------ */

#ifdef _WIN32

static char *new_buffers(size_t size)
{
    return VirtualAlloc(NULL, size, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE);
}

static void free_buffers(char *buffers, size_t size)
{
    (void)size;
    VirtualFree(buffers, 0, MEM_RELEASE);
}

/* Move some bytes; return how many, or -1 with an error number. */
static int64_t move(int fd, char *data, int64_t bytes, int64_t at, int writing)
{
    OVERLAPPED place = {0};
    DWORD moved = 0;
    HANDLE file = (HANDLE)_get_osfhandle(fd);
    place.Offset = (DWORD)at;
    place.OffsetHigh = (DWORD)(at >> 32);
    if (writing ? WriteFile(file, data, (DWORD)bytes, &moved, &place)
                : ReadFile(file, data, (DWORD)bytes, &moved, &place))
        return moved;
    if (!writing && GetLastError() == ERROR_HANDLE_EOF) return 0;
    errno = GetLastError() == ERROR_DISK_FULL ? ENOSPC : EIO;
    return -1;
}

static int drop(int fd, const fo_wave *wave, int writing)
{
    (void)fd, (void)wave, (void)writing;
    return 0;
}

static void bypass_cache(int fd) { (void)fd; }
static int second_of(int fd) { return _dup(fd); }
static int64_t length_of(int fd) { return _filelengthi64(fd); }
static void close_file(int fd) { _close(fd); }

#else

static int second_of(int fd) { return fcntl(fd, F_DUPFD_CLOEXEC, 0); }
static void close_file(int fd) { close(fd); }

static int64_t length_of(int fd)
{
    struct stat found;
    return fstat(fd, &found) == 0 ? (int64_t)found.st_size : -1;
}

/* A child of fork() gets none of the buffers: the system would have to keep apart what a transfer
 * under way writes, and has not always done so. */
static char *new_buffers(size_t size)
{
    char *buffers = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANON, -1, 0);
    if (buffers == MAP_FAILED) return NULL;
#ifdef MADV_DONTFORK
    madvise(buffers, size, MADV_DONTFORK);
#endif
    return buffers;
}

static void free_buffers(char *buffers, size_t size) { munmap(buffers, size); }

/* Move some bytes; return how many, or -1 with an error number. */
static int64_t move(int fd, char *data, int64_t bytes, int64_t at, int writing)
{
    int64_t moved;
    do {
        moved = writing ? pwrite(fd, data, (size_t)bytes, at) : pread(fd, data, (size_t)bytes, at);
    } while (moved < 0 && errno == EINTR);
    return moved;
}

#ifdef __linux__

/* Have the page cache forget a wave, once it is on the disk; return an error number. An error of
 * the disk is told here, and once only: afterwards the cache takes the wave for written. */
static int drop(int fd, const fo_wave *wave, int writing)
{
    const unsigned all =
        SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER;
    if (wave->bytes == 0) return 0; /* which would stand for all of the file */
    if (writing && sync_file_range(fd, wave->at, wave->bytes, all) != 0) {
        if (errno != ENOSYS) return errno;
        if (fdatasync(fd) != 0) return errno;
    }
    posix_fadvise(fd, wave->at, wave->bytes, POSIX_FADV_DONTNEED);
    return 0;
}

static void bypass_cache(int fd) { (void)fd; }

int fo_punch(int fd, int64_t at, int64_t bytes)
{
    return fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, bytes) == 0;
}

#else

static int drop(int fd, const fo_wave *wave, int writing)
{
    (void)fd, (void)wave, (void)writing;
    return 0;
}

static void bypass_cache(int fd)
{
#ifdef F_NOCACHE
    fcntl(fd, F_NOCACHE, 1);
#else
    (void)fd;
#endif
}

#endif
#endif

#ifndef __linux__
int fo_punch(int fd, int64_t at, int64_t bytes)
{
    (void)fd, (void)at, (void)bytes;
    return 0;
}
#endif

/* -- Transfers --------------------------------------------------------------------------------- */

static char *buffer_of(fo_ring *ring, int64_t n)
{
    return ring->buffers + n % ring->ahead * ring->room;
}

/* Read or write the n-th wave, however many bytes the system moves at a time. What it moves without
 * its cache begins and ends at blocks, so that a part of one is moved again. To write behind the end
 * of a file that somebody has cut short would leave zeros before. */
static int transfer(fo_ring *ring, int64_t n, int writing)
{
    const fo_wave *wave = &ring->waves[n % ring->count];
    char *data = buffer_of(ring, n);
    int64_t done = 0;
    if (writing && length_of(ring->fd) < wave->at + wave->bytes) return FO_CUT;
    while (done < wave->bytes) {
        int64_t bytes = wave->bytes - done;
        if (bytes > MOST_AT_ONCE) bytes = MOST_AT_ONCE;
        bytes = move(ring->fd, data + done, bytes, wave->at + done, writing);
        if (bytes < 0) return errno;
        if (ring->direct) bytes -= bytes % FO_BLOCK;
        if (bytes == 0) return writing ? EIO : FO_CUT;
        done += bytes;
    }
    return ring->direct ? 0 : drop(ring->fd, wave, writing);
}

/* Transfer a wave without the lock, and note what went wrong; return whether nothing did. */
static int transferred(fo_ring *ring, int64_t n, int writing)
{
    int error;
    unlock(&ring->lock);
    error = transfer(ring, n, writing);
    lock(&ring->lock);
    if (error && !ring->fault.error) ring->fault = (fo_fault){error, writing};
    return !error;
}

static int is_over(const fo_ring *ring) { return ring->quits || ring->fault.error; }

/* -- Threads ----------------------------------------------------------------------------------- */

static served_t SERVE read_ahead(void *argument)
{
    fo_ring *ring = argument;
    lock(&ring->lock);
    for (;;) {
        while (!is_over(ring) && ring->read == ring->written + ring->ahead)
            wait_for(&ring->changed, &ring->lock);
        if (is_over(ring)) break;
        if (transferred(ring, ring->read, 0)) {
            ring->bytes_read += ring->waves[ring->read % ring->count].bytes;
            ring->read++;
        }
        wake_all(&ring->changed);
    }
    unlock(&ring->lock);
    return (served_t)0;
}

static served_t SERVE write_behind(void *argument)
{
    fo_ring *ring = argument;
    lock(&ring->lock);
    for (;;) {
        while (!is_over(ring) && ring->written == ring->used) wait_for(&ring->changed, &ring->lock);
        if (is_over(ring)) break;
        if (!ring->dirty[ring->written % ring->ahead]) {
            ring->written++;
        } else if (transferred(ring, ring->written, 1)) {
            ring->bytes_written += ring->waves[ring->written % ring->count].bytes;
            ring->written++;
        }
        wake_all(&ring->changed);
    }
    unlock(&ring->lock);
    return (served_t)0;
}

/* Start the threads, unless they run. */
static void start(fo_ring *ring)
{
    if (ring->fault.error) return;
    if (ring->threads == 0 && start_thread(&ring->reader, read_ahead, ring)) ring->threads++;
    if (ring->threads == 1 && start_thread(&ring->writer, write_behind, ring)) ring->threads++;
    if (ring->threads < 2) ring->fault = (fo_fault){EAGAIN, 0};
}

/* -- What the caller has ----------------------------------------------------------------------- */

fo_ring *fo_ring_new(int fd, int direct, const fo_wave *waves, int64_t count, int buffers)
{
    fo_ring *ring = calloc(1, sizeof *ring + (size_t)count * sizeof *waves);
    if (!ring) return NULL;
    ring->lock = (lock_t)LOCK_INIT;
    ring->changed = (condition_t)CONDITION_INIT;
    ring->fd = second_of(fd);
    ring->direct = direct;
    ring->count = count;
    ring->ahead = buffers < MOST_BUFFERS ? buffers : MOST_BUFFERS;
    if (count < ring->ahead) ring->ahead = count;
    for (int64_t n = 0; n < count; n++) {
        ring->waves[n] = waves[n];
        if (waves[n].bytes > ring->room) ring->room = waves[n].bytes;
    }
    ring->buffers = new_buffers((size_t)(ring->ahead * ring->room));
    if (!ring->buffers || ring->fd < 0) {
        fo_ring_free(ring, 0);
        return NULL;
    }
    if (!direct) bypass_cache(fd);
    return ring;
}

void fo_ring_stop(fo_ring *ring)
{
    lock(&ring->lock);
    ring->quits = 1;
    if (!ring->fault.error) ring->fault = (fo_fault){ECANCELED, 0};
    wake_all(&ring->changed);
    unlock(&ring->lock);
    if (ring->threads > 0) join_thread(ring->reader);
    if (ring->threads > 1) join_thread(ring->writer);
    ring->threads = 0;
    if (ring->fd >= 0) close_file(ring->fd);
    ring->fd = -1;
}

void fo_ring_free(fo_ring *ring, int lost)
{
    if (!ring) return;
    if (lost) {
        close_file(ring->fd);
    } else {
        fo_ring_stop(ring);
        if (ring->buffers) free_buffers(ring->buffers, (size_t)(ring->ahead * ring->room));
    }
    free(ring);
}

char *fo_ring_take(fo_ring *ring)
{
    char *found;
    lock(&ring->lock);
    start(ring);
    while (!ring->fault.error && ring->read == ring->used) wait_for(&ring->changed, &ring->lock);
    found = ring->fault.error ? NULL : buffer_of(ring, ring->used);
    unlock(&ring->lock);
    return found;
}

void fo_ring_give(fo_ring *ring, int changed)
{
    lock(&ring->lock);
    ring->dirty[ring->used % ring->ahead] = changed;
    ring->used++;
    wake_all(&ring->changed);
    unlock(&ring->lock);
}

fo_fault fo_ring_settle(fo_ring *ring)
{
    fo_fault found;
    lock(&ring->lock);
    while (!ring->fault.error && ring->written < ring->used) wait_for(&ring->changed, &ring->lock);
    found = ring->fault;
    unlock(&ring->lock);
    return found;
}

void fo_ring_moved(fo_ring *ring, int64_t *read, int64_t *written)
{
    lock(&ring->lock);
    *read = ring->bytes_read;
    *written = ring->bytes_written;
    unlock(&ring->lock);
}
