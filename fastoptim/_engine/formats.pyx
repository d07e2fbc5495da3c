"""Formats: how the elements of an array are stored, and in which type the loops compute on them.

A loop knows float and double. An array of either is computed on where it is. Of any other format a
tile of elements is decoded, computed on, and encoded again (see `fastoptim._engine.staging`); the
NumPy backend does the same with whole arrays. To add a format is to add a `Format` to `FORMATS`.
"""

from libc.stdint cimport uintptr_t

cimport numpy as cnp

import numpy as np

cnp.import_array()

cdef enum:
    MOST_BYTES = 16  # of a stored element

REALS = np.dtype(np.float32), np.dtype(np.float64)  # the types that loops compute in


cdef class Format:
    """How elements are stored, one by one. An element whose bits are all 0 is the number 0.

    Parameters
    ----------
    dtype : dtype
        Of arrays in this format.
    real : dtype
        float32 or float64: the type in which they are computed on.
    load, store : int, optional
        Addresses of ``void load(real *tile, const char *stored, ptrdiff_t n)`` and
        ``void store(char *stored, const real *tile, ptrdiff_t n)``, which need no GIL. What is
        stored may be misaligned.
    decode, encode : function, optional
        The twins of load and store in NumPy. Each takes an array and returns one of the other type,
        with the same layout.
    """

    def __init__(self, dtype, real, uintptr_t load=0, uintptr_t store=0, decode=None, encode=None):
        self.dtype, self.real = np.dtype(dtype), np.dtype(real)
        if self.real not in REALS:
            raise ValueError(f"real: expected float32 or float64, found {self.real}")
        if not (bool(load) == bool(store) == callable(decode) == callable(encode)):
            raise ValueError("load, store, decode, encode: expected all of them or none")
        if not 0 < self.dtype.itemsize <= MOST_BYTES:
            raise ValueError(
                f"dtype: expected elements of 1 to {MOST_BYTES} bytes, found {self.dtype.itemsize}"
            )
        if not load and self.dtype != self.real:
            raise ValueError(f"real: expected {self.dtype} without load, found {self.real}")
        self.single = self.real == np.float32
        self.decode, self.encode = decode, encode
        self.stored.itemsize = self.dtype.itemsize
        self.stored.load, self.stored.store = <load_t> load, <store_t> store

    cdef decoded(self, array):
        """Return an array to read, in the type that is computed in."""
        return array if self.decode is None else self.decode(array)

    cdef decoded_copy(self, array):
        """Return an array to compute on, in the same layout."""
        return array.copy(order="K") if self.decode is None else self.decode(array)

    cdef encoded(self, array):
        """Return an array that was computed on, in this format."""
        if self.encode is None:
            return array
        found = self.encode(array)
        if found.dtype != self.dtype or found.shape != array.shape:
            raise ValueError(
                f"encode: expected {self.dtype} of shape {array.shape}, "
                f"found {found.dtype} of shape {found.shape}"
            )
        return found

    def fill(self, array, value):
        """Fill an array in this format with a number, or with another array in this format."""
        if self.encode is None or isinstance(value, np.ndarray):
            array[...] = value
        else:
            array[...] = self.encoded(np.full(array.shape, value, self.real))


FORMATS = {real: Format(real, real) for real in REALS}


cdef const Stored* read_as(Format found, Format own) noexcept:
    """Return how elements of a format are loaded for loops that compute in the type of another one.

    It is NULL where they cannot be: what has to be decoded is decoded into one type alone.
    """
    if found is own:
        return &own.stored
    if found is None or found.stored.load != NULL:
        return NULL
    if found.single == own.single:
        return &found.stored
    return &widened if found.single else &narrowed


cdef void widen(void* tile, const char* stored, Py_ssize_t n) noexcept nogil:
    """Load floats as doubles."""
    cdef double* to = <double*> tile
    cdef const float* x = <const float*> stored
    cdef Py_ssize_t i
    for i in range(n):
        to[i] = x[i]


cdef void narrow(void* tile, const char* stored, Py_ssize_t n) noexcept nogil:
    """Load doubles as floats, each rounded to the nearest."""
    cdef float* to = <float*> tile
    cdef const double* x = <const double*> stored
    cdef Py_ssize_t i
    for i in range(n):
        to[i] = <float> x[i]


cdef Stored widened = Stored(sizeof(float), &widen, NULL)
cdef Stored narrowed = Stored(sizeof(double), &narrow, NULL)


cdef Format known_format(cnp.ndarray a):
    """Return the format of an array, None if it is not known."""
    cdef Format found
    for found in FORMATS.values():  # not all dtypes have a hash to look them up by
        if descr_of(a) == <void*> found.dtype or equivalent(descr_of(a), <void*> found.dtype):
            return found
    return None


cpdef Format format_of(label, array):
    """Return the format of an array, or say what arrays may hold."""
    found = known_format(array)
    if found is not None:
        return found
    dtype = array.dtype
    if any([dtype == known.newbyteorder() for known in FORMATS]):
        raise TypeError(f"{label}: expected this machine's byte order, found {dtype.str!r}")
    expected = " or ".join(map(str, FORMATS))
    raise TypeError(f"{label}: expected dtype {expected}, found {dtype}")
