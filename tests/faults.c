/* A library for LD_PRELOAD that lets reads and writes of files named *.state fail, as the tests of
 * faults tell it by fo_fault. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

enum { READ, WRITE, SYNC, KINDS };
enum { SHORT = -1, KILL = -2 };

static atomic_int left[KINDS]; /* calls until the fault; 0: there is none */
static atomic_int times[KINDS];
static atomic_int error_of[KINDS];

/* From the n-th call of a kind on, let so many calls fail with an error number, or be cut short, or
 * kill the process. */
void fo_fault(int kind, int n, int count, int error)
{
    error_of[kind] = error;
    times[kind] = count;
    left[kind] = n;
}

static int is_state(int fd)
{
    char link[64], name[4096];
    ssize_t n;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    n = readlink(link, name, sizeof name - 1);
    if (n < 6) return 0;
    name[n] = 0;
    return strcmp(name + n - 6, ".state") == 0;
}

/* Return 0 for a call that is to go on, 1 for one that fails, 2 for one that is cut short. */
static int fails(int kind, int fd)
{
    if (left[kind] == 0 || !is_state(fd)) return 0;
    if (left[kind] > 1) {
        left[kind]--;
        return 0;
    }
    if (times[kind]-- == 0) {
        left[kind] = 0;
        return 0;
    }
    if (error_of[kind] == KILL) kill(getpid(), SIGKILL);
    if (error_of[kind] == SHORT) return 2;
    errno = error_of[kind];
    return 1;
}

/* Half of some bytes, in whole blocks. */
static size_t half(size_t n) { return n > 4096 ? n / 2 / 4096 * 4096 : n; }

ssize_t pread64(int fd, void *data, size_t n, off64_t at)
{
    ssize_t (*next)(int, void *, size_t, off64_t) = dlsym(RTLD_NEXT, "pread64");
    int found = fails(READ, fd);
    return found == 1 ? -1 : next(fd, data, found ? half(n) : n, at);
}

ssize_t pwrite64(int fd, const void *data, size_t n, off64_t at)
{
    ssize_t (*next)(int, const void *, size_t, off64_t) = dlsym(RTLD_NEXT, "pwrite64");
    int found = fails(WRITE, fd);
    return found == 1 ? -1 : next(fd, data, found ? half(n) : n, at);
}

int sync_file_range(int fd, off64_t at, off64_t n, unsigned flags)
{
    int (*next)(int, off64_t, off64_t, unsigned) = dlsym(RTLD_NEXT, "sync_file_range");
    return fails(SYNC, fd) ? -1 : next(fd, at, n, flags);
}
