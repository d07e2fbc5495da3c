/* The time, of a clock that only goes forward. */
#ifndef FASTOPTIM_CLOCK_H
#define FASTOPTIM_CLOCK_H

#include <stdint.h>

#ifdef _WIN32

#include <windows.h>

static int64_t fo_now_ns(void)
{
    LARGE_INTEGER count, frequency; /* of some 10 MHz: seconds and the rest apart cannot overflow */
    QueryPerformanceCounter(&count);
    QueryPerformanceFrequency(&frequency);
    return count.QuadPart / frequency.QuadPart * 1000000000
        + count.QuadPart % frequency.QuadPart * 1000000000 / frequency.QuadPart;
}

#else

#include <time.h>

static int64_t fo_now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

#endif

#endif
