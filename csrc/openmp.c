#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* for lists of the loaded libraries */
#endif
#include "openmp.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>

enum { MOST_RUNTIMES = 8, LONGEST_PATH = 1024 };

typedef int (*number_t)(void);

/* The functions of a runtime; vcomp has not all of them, and only some have GOMP_parallel. */
typedef struct {
    char name[64];
    number_t max_threads, thread_limit, max_active_levels, in_parallel, proc_bind, num_procs;
    fo_gomp_number number;
    fo_gomp_parallel parallel;
} runtime_t;

static runtime_t runtimes[MOST_RUNTIMES];
static atomic_int count;
static fo_gomp_parallel chosen_parallel;
static fo_gomp_number chosen_number;

/* -- The libraries of this process ------------------------------------------------------------- */

/* loaded_since_last_time() is quick, and tells whether it is worth while to call find_libraries().
 * That calls add() for each library that may be a runtime. */

typedef void (*function_t)(void);
static void add(const char *path);

static const char *last_part(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

#ifdef _WIN32

#include <windows.h>

/* By their names: Windows has no cheap way to ask whether something has been loaded. */
static const char *const NAMES[] = {"vcomp140.dll", "libomp140.x86_64.dll", "libomp.dll",
                                    "libiomp5md.dll", "libgomp-1.dll"};

static int loaded_since_last_time(void) { return 1; }

static void find_libraries(void)
{
    for (size_t k = 0; k < sizeof NAMES / sizeof *NAMES; k++)
        if (GetModuleHandleA(NAMES[k])) add(NAMES[k]);
}

static void *open_loaded(const char *path) { return (void *)GetModuleHandleA(path); }
static function_t look_up(void *library, const char *name)
{
    return (function_t)GetProcAddress((HMODULE)library, name);
}

#else

#include <dlfcn.h>

static int is_runtime(const char *path)
{
    static const char *const starts[] = {"libgomp", "libomp", "libiomp5"};
    const char *name = last_part(path);
    for (size_t k = 0; k < sizeof starts / sizeof *starts; k++)
        if (strncmp(name, starts[k], strlen(starts[k])) == 0) return 1;
    return 0;
}

/* Its handle is never closed: no runtime can be unloaded while it has threads. */
static void *open_loaded(const char *path) { return dlopen(path, RTLD_LAZY | RTLD_NOLOAD); }

static function_t look_up(void *library, const char *name)
{
    function_t function;
    *(void **)&function = dlsym(library, name);
    return function;
}

#ifdef __APPLE__

#include <mach-o/dyld.h>

static int loaded_since_last_time(void)
{
    static uint32_t last;
    uint32_t now = _dyld_image_count();
    return now != last ? (last = now, 1) : 0;
}

static void find_libraries(void)
{
    for (uint32_t k = 0; k < _dyld_image_count(); k++) {
        const char *path = _dyld_get_image_name(k);
        if (path && is_runtime(path)) add(path);
    }
}

#else

#include <link.h>

static int read_adds(struct dl_phdr_info *library, size_t size, void *adds)
{
    (void)size;
    *(unsigned long long *)adds = library->dlpi_adds; /* the same in all */
    return 1;
}

static int loaded_since_last_time(void)
{
    static unsigned long long last;
    unsigned long long now = 0;
    dl_iterate_phdr(read_adds, &now);
    return now != last ? (last = now, 1) : 0;
}

typedef struct {
    char path[MOST_RUNTIMES][LONGEST_PATH];
    int count;
} paths_t;

static int note_path(struct dl_phdr_info *library, size_t size, void *noted)
{
    paths_t *paths = (paths_t *)noted;
    const char *path = library->dlpi_name;
    (void)size;
    if (path && is_runtime(path) && paths->count < MOST_RUNTIMES && strlen(path) < LONGEST_PATH)
        strcpy(paths->path[paths->count++], path);
    return 0;
}

/* dl_iterate_phdr holds the list of libraries, and no library may be opened meanwhile: their paths
 * are noted first. */
static void find_libraries(void)
{
    static paths_t paths;
    paths.count = 0;
    dl_iterate_phdr(note_path, &paths);
    for (int k = 0; k < paths.count; k++) add(paths.path[k]);
}

#endif
#endif

/* Add a runtime that is not among the others yet. */
static void add(const char *path)
{
    int n = atomic_load_explicit(&count, memory_order_relaxed);
    runtime_t *new = &runtimes[n];
    void *library = open_loaded(path);
    number_t max_threads = library ? (number_t)look_up(library, "omp_get_max_threads") : NULL;
    if (!max_threads || n == MOST_RUNTIMES) return;
    for (int k = 0; k < n; k++)
        if (runtimes[k].max_threads == max_threads) return;
    snprintf(new->name, sizeof new->name, "%s", last_part(path));
    new->max_threads = max_threads;
    new->thread_limit = (number_t)look_up(library, "omp_get_thread_limit");
    new->max_active_levels = (number_t)look_up(library, "omp_get_max_active_levels");
    new->in_parallel = (number_t)look_up(library, "omp_in_parallel");
    new->proc_bind = (number_t)look_up(library, "omp_get_proc_bind");
    new->num_procs = (number_t)look_up(library, "omp_get_num_procs");
    new->number = (fo_gomp_number)look_up(library, "omp_get_thread_num");
    new->parallel = (fo_gomp_parallel)look_up(library, "GOMP_parallel");
    atomic_store_explicit(&count, n + 1, memory_order_release);
}

/* Look for runtimes, if there may be new ones. One thread at a time does; the others use those that
 * are known. In a child of fork() the list of libraries may be locked by a thread that is not there. */
static void look(void)
{
    static atomic_flag looking = ATOMIC_FLAG_INIT;
    if (fo_forks || atomic_flag_test_and_set_explicit(&looking, memory_order_acquire)) return;
    if (loaded_since_last_time()) find_libraries();
    atomic_flag_clear_explicit(&looking, memory_order_release);
}

/* -- What they say ----------------------------------------------------------------------------- */

static int ask(number_t question, int otherwise) { return question ? question() : otherwise; }
static int fewer(int a, int b) { return a < b ? a : b; }

fo_openmp fo_openmp_ask(void)
{
    fo_openmp all = {0};
    look();
    all.runtimes = atomic_load_explicit(&count, memory_order_acquire);
    all.lends = chosen_parallel != NULL;
    for (int k = 0; k < all.runtimes; k++) {
        const runtime_t *r = &runtimes[k];
        int threads = fewer(r->max_threads(), ask(r->thread_limit, INT_MAX));
        if (ask(r->in_parallel, 0)) all.inside = 1;
        if (all.inside || ask(r->max_active_levels, 1) == 0) threads = 1;
        all.threads = k ? fewer(all.threads, threads) : threads;
        if (ask(r->proc_bind, 0)) all.cpus = ask(r->num_procs, 1);
        if (r->parallel) all.lends = 1;
    }
    return all;
}

const char *fo_openmp_name(int runtime) { return runtimes[runtime].name; }

/* -- Their workers ----------------------------------------------------------------------------- */

void fo_openmp_use(fo_gomp_parallel parallel, fo_gomp_number number)
{
    chosen_parallel = parallel;
    chosen_number = number;
}

typedef struct {
    fo_job job;
    void *work;
    fo_gomp_number number;
} region_t;

static void run_in_region(void *region)
{
    region_t *r = (region_t *)region;
    r->job(r->number(), r->work);
}

void fo_openmp_run(fo_job job, int n, void *work)
{
    region_t region = {job, work, chosen_number};
    fo_gomp_parallel parallel = chosen_parallel;
    for (int k = 0; !parallel; k++) {
        parallel = runtimes[k].parallel;
        region.number = runtimes[k].number;
    }
    parallel(run_in_region, &region, (unsigned)n, 0);
}
