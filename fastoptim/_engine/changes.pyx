"""Changes: what happens to several objects or arrays at once, or to none of them.

An interrupt of the main thread raises between two instructions of Python. All code here is
compiled, so that no interrupt comes in the middle of a change.
"""

from libc.string cimport memcpy

cimport numpy as cnp
from cpython.object cimport PyObject_GenericSetAttr, PyObject_SetItem

from fastoptim._engine.arrays cimport AXES, Walk, advance, is_dense, memory_order, size_of
from fastoptim._engine.formats cimport Format, Stored, format_of
from fastoptim._engine.threads cimport UNLOCK

import numpy as np

cnp.import_array()

ctypedef fused number:
    float
    double


cpdef change(changes):
    """Give objects new attributes, and dicts and arrays new items: all of them, or none.

    Attributes are not set by way of an object's ``__dict__``: Python makes that dict only when it
    is asked for, and all attributes of the object are slower from then on.

    Parameters
    ----------
    changes : iterable of tuples
        ``(target, values)``: a dict of the new attributes of an object, or of the new items of a
        dict or an array. The key ``...`` stands for all elements of an array.
    """
    for target, attributes in list(changes):
        for name, value in (<dict> attributes).items():
            if isinstance(target, (dict, np.ndarray)):
                PyObject_SetItem(target, name, value)
            else:
                PyObject_GenericSetAttr(target, name, value)  # runs no __setattr__ in Python


def clip(list arrays, double factor, double limit):
    """Multiply arrays of any layout by a factor, then clip each element: of all arrays, or of none.

    An unknown format raises before any array has changed. After that nothing can fail and, as in
    `change`, no interrupt comes. The call needs no `np.errstate` around it, which an interrupt
    might leave on.

    Parameters
    ----------
    arrays : list of ndarray
        In a known format, writable, without elements in common.
    factor : float
        Rounded to the type of each array, as NumPy rounds a Python number.
    limit : float
        The largest magnitude, rounded likewise. A NaN stays.
    """
    cdef cnp.ndarray a
    cdef Walk walk
    cdef char* base
    cdef Format found
    cdef const Stored* stored
    cdef bint single
    cdef Py_ssize_t k
    cdef list formats = [format_of("clip", a) for a in arrays]
    for k in range(len(formats)):
        a, found = arrays[k], formats[k]
        base, stored, single = cnp.PyArray_BYTES(a), &found.stored, found.single
        memory_order(&walk, a, a)
        if is_dense(a):
            walk.axes, walk.shape[0], walk.strides[0] = 1, size_of(a), stored.itemsize
        if size_of(a) * stored.itemsize < UNLOCK:
            clip_array(&walk, base, stored, single, factor, limit)
        else:
            with nogil:
                clip_array(&walk, base, stored, single, factor, limit)


cdef void clip_array(
    const Walk* walk, char* base, const Stored* stored, bint single, double factor, double limit
) noexcept nogil:
    """Clip what lies along the last axis, once for each index of the other axes."""
    cdef Py_ssize_t[AXES] index
    cdef Py_ssize_t n = 1, stride = stored.itemsize
    cdef int last = walk.axes - 1, k
    cdef bint more = True
    if last >= 0:
        n, stride = walk.shape[last], walk.strides[last]
    for k in range(walk.axes):
        index[k] = 0
        if walk.shape[k] == 0:
            return
    while more:
        if single:
            clip_axis(base, n, stride, stored, <float> factor, <float> limit)
        else:
            clip_axis(base, n, stride, stored, factor, limit)
        more = advance(walk, last, &index[0], &base)


cdef void clip_axis(
    char* at, Py_ssize_t n, Py_ssize_t stride, const Stored* stored, number factor, number limit
) noexcept nogil:
    cdef Py_ssize_t i
    cdef number x
    if stored.load != NULL:
        for i in range(n):
            stored.load(&x, at + i * stride, 1)
            clip_one(<char*> &x, factor, limit)
            stored.store(at + i * stride, &x, 1)
    elif stride == sizeof(factor):  # a constant stride: the compiler makes a vector loop
        for i in range(n):
            clip_one(at + i * <Py_ssize_t> sizeof(factor), factor, limit)
    else:
        for i in range(n):
            clip_one(at + i * stride, factor, limit)


cdef inline void clip_one(char* at, number factor, number limit) noexcept nogil:
    cdef number x
    memcpy(&x, at, sizeof(x))  # `at` may be misaligned
    x = factor * x
    x = limit if x > limit else (-limit if x < -limit else x)
    memcpy(at, &x, sizeof(x))


cdef void swap(char* a, char* b, Py_ssize_t size) noexcept:
    cdef char[4096] tile
    cdef Py_ssize_t start, n
    for start in range(0, size, <Py_ssize_t> sizeof(tile)):
        n = min(size - start, <Py_ssize_t> sizeof(tile))
        memcpy(tile, a + start, n)
        memcpy(a + start, b + start, n)
        memcpy(b + start, tile, n)
