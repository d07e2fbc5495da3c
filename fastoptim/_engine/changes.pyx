"""Changes: what happens to several objects or arrays at once, or to none of them.

An interrupt of the main thread raises between two instructions of Python. All code here is
compiled, so that no interrupt comes in the middle of a change.
"""

from libc.string cimport memcpy

cimport numpy as cnp
from cpython.object cimport PyObject_GenericSetAttr, PyObject_SetItem

cnp.import_array()


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
            if isinstance(target, (dict, cnp.ndarray)):
                PyObject_SetItem(target, name, value)
            else:
                PyObject_GenericSetAttr(target, name, value)  # runs no __setattr__ in Python


cdef void swap(char* a, char* b, Py_ssize_t size) noexcept:
    cdef char[4096] tile
    cdef Py_ssize_t start, n
    for start in range(0, size, <Py_ssize_t> sizeof(tile)):
        n = min(size - start, <Py_ssize_t> sizeof(tile))
        memcpy(tile, a + start, n)
        memcpy(a + start, b + start, n)
        memcpy(b + start, tile, n)
