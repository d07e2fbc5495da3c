/* A format for the tests of formats: float32 in the other byte order. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

static uint32_t swapped(uint32_t x)
{
    return x << 24 | (x & 0xff00) << 8 | (x >> 8 & 0xff00) | x >> 24;
}

/* It is its own inverse, so that it loads and stores. The bytes may be misaligned. */
void swap_bytes(void *to, const void *from, ptrdiff_t n)
{
    for (ptrdiff_t i = 0; i < n; i++) {
        uint32_t x;
        memcpy(&x, (const char *)from + 4 * i, 4);
        x = swapped(x);
        memcpy((char *)to + 4 * i, &x, 4);
    }
}
