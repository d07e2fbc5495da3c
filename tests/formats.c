/* Formats for the tests of formats. The bytes may be misaligned. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

static uint32_t swapped(uint32_t x)
{
    return x << 24 | (x & 0xff00) << 8 | (x >> 8 & 0xff00) | x >> 24;
}

/* float32 in the other byte order. It is its own inverse, so that it loads and stores. */
void swap_bytes(void *to, const void *from, ptrdiff_t n)
{
    for (ptrdiff_t i = 0; i < n; i++) {
        uint32_t x;
        memcpy(&x, (const char *)from + 4 * i, 4);
        x = swapped(x);
        memcpy((char *)to + 4 * i, &x, 4);
    }
}

/* The upper half of a float32: half as wide as what is computed in. */
void load_upper(void *tile, const void *stored, ptrdiff_t n)
{
    for (ptrdiff_t i = 0; i < n; i++) {
        uint16_t upper;
        memcpy(&upper, (const char *)stored + 2 * i, 2);
        uint32_t x = (uint32_t)upper << 16;
        memcpy((char *)tile + 4 * i, &x, 4);
    }
}

void store_upper(void *stored, const void *tile, ptrdiff_t n)
{
    for (ptrdiff_t i = 0; i < n; i++) {
        uint32_t x;
        memcpy(&x, (const char *)tile + 4 * i, 4);
        uint16_t upper = (uint16_t)(x >> 16);
        memcpy((char *)stored + 2 * i, &upper, 2);
    }
}

/* The bits of a float32 that is computed on as a double. */
void load_single(double *tile, const void *stored, ptrdiff_t n)
{
    for (ptrdiff_t i = 0; i < n; i++) {
        float x;
        memcpy(&x, (const char *)stored + 4 * i, 4);
        tile[i] = x;
    }
}

void store_single(void *stored, const double *tile, ptrdiff_t n)
{
    for (ptrdiff_t i = 0; i < n; i++) {
        float x = (float)tile[i];
        memcpy((char *)stored + 4 * i, &x, 4);
    }
}
