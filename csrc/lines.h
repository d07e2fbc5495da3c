/* Copies out of an array of any strides, line by line.
 *
 * A line is n elements, each `stride` bytes behind the one before. An element may be misaligned, and
 * all that is known of it is its size, so that a NaN arrives with all its bits, too. */
#ifndef FASTOPTIM_LINES_H
#define FASTOPTIM_LINES_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Squares of LANES x LANES elements, with a vector of each line. Each round interleaves the first
 * half of the vectors with the second one; after log2(LANES) rounds they hold a column each. */
#if defined(__clang__)
#define FO_VECTORS
#define FO_INTERLEAVE(vector, a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#elif defined(__GNUC__)
#define FO_VECTORS
#define FO_INTERLEAVE(vector, a, b, ...) __builtin_shuffle(a, b, (vector){__VA_ARGS__})
#endif

#ifdef FO_VECTORS
#define FO_SQUARE(name, word, LANES, LOW, HIGH)                                                    \
    typedef word name##_vector __attribute__((vector_size(16)));                                   \
    static inline void name##_square(char *to, ptrdiff_t width, const char *from,                  \
                                     const ptrdiff_t *at)                                          \
    {                                                                                              \
        name##_vector a[LANES], b[LANES];                                                          \
        for (int k = 0; k < LANES; k++) memcpy(&a[k], from + at[k], sizeof a[k]);                  \
        for (int round = 1; round < LANES; round *= 2) {                                           \
            for (int k = 0; k < LANES / 2; k++) {                                                  \
                b[2 * k] = FO_INTERLEAVE(name##_vector, a[k], a[k + LANES / 2], LOW);              \
                b[2 * k + 1] = FO_INTERLEAVE(name##_vector, a[k], a[k + LANES / 2], HIGH);         \
            }                                                                                      \
            memcpy(a, b, sizeof a);                                                                \
        }                                                                                          \
        for (int k = 0; k < LANES; k++) memcpy(to + k * width, &a[k], sizeof a[k]);                \
    }
#else
#define FO_SQUARE(name, word, LANES, LOW, HIGH)                                                    \
    static inline void name##_square(char *to, ptrdiff_t width, const char *from,                  \
                                     const ptrdiff_t *at)                                          \
    {                                                                                              \
        for (int i = 0; i < LANES; i++)                                                            \
            for (int k = 0; k < LANES; k++)                                                        \
                memcpy(to + i * width + k * sizeof(word), from + at[k] + i * sizeof(word),         \
                       sizeof(word));                                                              \
    }
#endif
#define FO_LIST(...) __VA_ARGS__

/* For elements of one size: `name_line` copies one line; `name_lines` copies lines that begin
 * at[k] bytes behind `from`, and lets the k-th become the k-th column of rows of `width` bytes. */
#define FO_LINES(name, word, LANES, LOW, HIGH)                                                     \
    FO_SQUARE(name, word, LANES, FO_LIST(LOW), FO_LIST(HIGH))                                      \
                                                                                                   \
    static inline void name##_strided(word *to, const char *from, ptrdiff_t stride, ptrdiff_t n)   \
    {                                                                                              \
        for (ptrdiff_t i = 0; i < n; i++) memcpy(&to[i], from + i * stride, sizeof(word));         \
    }                                                                                              \
                                                                                                   \
    static void name##_line(char *to, const char *from, ptrdiff_t stride, ptrdiff_t n)             \
    {                                                                                              \
        const ptrdiff_t size = sizeof(word);                                                       \
        word *tile = (word *)to;                                                                   \
        if (stride == size)                                                                        \
            memcpy(to, from, n * size);                                                            \
        else if (stride == 2 * size)                                                               \
            name##_strided(tile, from, 2 * size, n); /* constants, for which there are vectors */  \
        else if (stride == -size)                                                                  \
            name##_strided(tile, from, -size, n);                                                  \
        else if (stride == 0)                                                                      \
            name##_strided(tile, from, 0, n);                                                      \
        else                                                                                       \
            name##_strided(tile, from, stride, n);                                                 \
    }                                                                                              \
                                                                                                   \
    static void name##_lines(char *to, ptrdiff_t width, const char *from, const ptrdiff_t *at,     \
                             ptrdiff_t lines, ptrdiff_t stride, ptrdiff_t n)                       \
    {                                                                                              \
        const ptrdiff_t size = sizeof(word);                                                       \
        ptrdiff_t i, k, squares = 0, whole = 0;                                                    \
        if (stride == -size) { /* from the other end */                                            \
            from += (n - 1) * stride;                                                              \
            to += (n - 1) * width;                                                                 \
            stride = -stride;                                                                      \
            width = -width;                                                                        \
        }                                                                                          \
        if (stride == size) {                                                                      \
            squares = lines - lines % LANES;                                                       \
            whole = n - n % LANES;                                                                 \
        }                                                                                          \
        for (k = 0; k < squares; k += LANES)                                                       \
            for (i = 0; i < whole; i += LANES)                                                     \
                name##_square(to + i * width + k * size, width, from + i * stride, at + k);        \
        for (i = 0; i < n; i++)                                                                    \
            for (k = i < whole ? squares : 0; k < lines; k++)                                      \
                memcpy(to + i * width + k * size, from + at[k] + i * stride, size);                \
    }

FO_LINES(fo_16, uint16_t, 8, FO_LIST(0, 8, 1, 9, 2, 10, 3, 11), FO_LIST(4, 12, 5, 13, 6, 14, 7, 15))
FO_LINES(fo_32, uint32_t, 4, FO_LIST(0, 4, 1, 5), FO_LIST(2, 6, 3, 7))
FO_LINES(fo_64, uint64_t, 2, FO_LIST(0, 2), FO_LIST(1, 3))

/* Copy one line of elements of any size. */
static inline void fo_copy_line(char *to, const char *from, ptrdiff_t stride, ptrdiff_t n,
                                ptrdiff_t size)
{
    if (size == 4)
        fo_32_line(to, from, stride, n);
    else if (size == 8)
        fo_64_line(to, from, stride, n);
    else if (size == 2)
        fo_16_line(to, from, stride, n);
    else
        for (ptrdiff_t i = 0; i < n; i++) memcpy(to + i * size, from + i * stride, size);
}

/* Copy lines of elements of any size, each into a column. */
static inline void fo_copy_lines(char *to, ptrdiff_t width, const char *from, const ptrdiff_t *at,
                                 ptrdiff_t lines, ptrdiff_t stride, ptrdiff_t n, ptrdiff_t size)
{
    if (size == 4)
        fo_32_lines(to, width, from, at, lines, stride, n);
    else if (size == 8)
        fo_64_lines(to, width, from, at, lines, stride, n);
    else if (size == 2)
        fo_16_lines(to, width, from, at, lines, stride, n);
    else
        for (ptrdiff_t i = 0; i < n; i++)
            for (ptrdiff_t k = 0; k < lines; k++)
                memcpy(to + i * width + k * size, from + at[k] + i * stride, size);
}

/* Copy a row of n elements of any size, the k-th to at[k] bytes behind `to`. */
static inline void fo_scatter_row(char *to, const ptrdiff_t *at, const char *row, ptrdiff_t n,
                                  ptrdiff_t size)
{
    if (size == 4)
        for (ptrdiff_t k = 0; k < n; k++) memcpy(to + at[k], row + k * 4, 4);
    else if (size == 8)
        for (ptrdiff_t k = 0; k < n; k++) memcpy(to + at[k], row + k * 8, 8);
    else
        for (ptrdiff_t k = 0; k < n; k++) memcpy(to + at[k], row + k * size, size);
}

/* Ask for the lines of the cache from one address to another, which need not be in the array.
 *
 * gcc takes a function that but prefetches for one without any effect, and leaves out its calls; the
 * empty statement is an effect. */
static inline void fo_prefetch(const char *from, const char *to)
{
#ifdef FO_VECTORS
    __asm__ volatile("");
    for (; from < to; from += 64) __builtin_prefetch(from, 0, 2);
#endif
}

/* Write zeros into a line. */
static inline void fo_zero_line(char *at, ptrdiff_t stride, ptrdiff_t n, ptrdiff_t size)
{
    if (stride == size)
        memset(at, 0, n * size);
    else
        for (ptrdiff_t i = 0; i < n; i++) memset(at + i * stride, 0, size);
}

#endif
