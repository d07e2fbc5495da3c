"""Arrays: what one must be to be stepped, how it runs through memory, and what overlaps what.

It knows arrays one by one, and nothing of optimizers: its callers say what an array is called.
"""

from libc.stdint cimport uintptr_t
from libc.stdlib cimport qsort

cimport numpy as cnp
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF

from fastoptim._engine.formats cimport Format, format_of, known_format

import numpy as np

from fastoptim._engine.foreign import unfit, untargeted

cnp.import_array()

cdef extern from "numpy/arrayobject.h":
    object PyArray_New(
        type subtype, int nd, cnp.npy_intp* dims, int type_num, cnp.npy_intp* strides, void* data,
        int itemsize, int flags, PyObject* like
    )
    object PyArray_NewFromDescr(
        type subtype, cnp.dtype descr, int nd, cnp.npy_intp* dims, cnp.npy_intp* strides,
        void* data, int flags, PyObject* like
    )


cpdef as_array(label, value):
    """Return an ndarray over the same memory, or say why there is none."""
    if cnp.PyArray_CheckExact(value):
        return value
    if not cnp.PyArray_Check(value):
        raise TypeError(f"{label}: {unfit(value)}")
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{label}: expected an array without a mask, found {type(value).__name__}")
    return np.ndarray.view(value, np.ndarray)  # a subclass may have a view of its own


def flat(cnp.ndarray array not None):
    """Return the elements of a dense array in the order of its memory: a view of one axis."""
    if not is_dense(array):
        raise ValueError("array: expected a dense array, found another")
    return flat_over(cnp.PyArray_DATA(array), size_of(array), array, array)


def are_plain(list values):
    """Tell, quickly, whether values are ndarrays of no subclass, or None."""
    for value in values:
        if not cnp.PyArray_CheckExact(value) and value is not None:
            return False
    return True


def array_at(uintptr_t address, shape, strides, cnp.dtype dtype, owner):
    """Return an array over memory that its owner keeps; the strides count elements."""
    cdef cnp.npy_intp[AXES] lengths, steps
    cdef int axis, axes = len(shape), itemsize = dtype.itemsize
    for axis in range(axes):
        lengths[axis] = shape[axis]
        steps[axis] = <cnp.npy_intp> strides[axis] * itemsize
    array = PyArray_New(
        np.ndarray, axes, lengths, dtype.num, steps, <void*> address, 0,
        cnp.NPY_ARRAY_WRITEABLE, NULL
    )
    cnp.set_array_base(array, owner)
    return array


cdef cnp.ndarray array_over(void* data, cnp.ndarray like, owner):
    """Return an array over memory that its owner keeps, laid out as another one."""
    cdef cnp.dtype descr = <cnp.dtype> descr_of(like)
    Py_INCREF(descr)  # the new array takes over a reference
    array = PyArray_NewFromDescr(
        cnp.ndarray, descr, cnp.PyArray_NDIM(like), cnp.PyArray_DIMS(like),
        cnp.PyArray_STRIDES(like), data, cnp.NPY_ARRAY_WRITEABLE, NULL
    )
    cnp.set_array_base(array, owner)
    return array


cdef cnp.ndarray flat_over(void* data, Py_ssize_t size, cnp.ndarray like, owner):
    """Return an array of one axis over memory that its owner keeps, of another one's dtype."""
    cdef cnp.dtype descr = <cnp.dtype> descr_of(like)
    cdef cnp.npy_intp length = size
    Py_INCREF(descr)  # the new array takes over a reference
    array = PyArray_NewFromDescr(
        cnp.ndarray, descr, 1, &length, NULL, data, cnp.NPY_ARRAY_WRITEABLE, NULL
    )
    cnp.set_array_base(array, owner)
    return array


def zeros_like_each(arrays):
    """Return zeros laid out as each of some arrays.

    Those of one dtype lie one behind the other in a block of memory, each from the start of a line
    of the cache. Allocated one by one they were scattered: a step of 1,000 arrays of 1,000 elements
    then took 1.4 times as long. A long array begins as far behind the start of a line as the one
    that it is like, so that the engine's vectors are within one line in both.
    """
    cdef cnp.ndarray a
    cdef uintptr_t at = 0
    cdef void* dtype = NULL
    cdef dict sizes = {}, blocks = {}
    for a in arrays:
        of_a = <object> descr_of(a)
        sizes[of_a] = sizes.get(of_a, LINE) + lines_of(a)
    for of_block, size in sizes.items():
        block = np.zeros(size, np.uint8)  # the system gives its memory only once it is touched
        at = <uintptr_t> cnp.PyArray_BYTES(block)
        blocks[of_block] = block, at + -at % <uintptr_t> LINE
    found = []
    for a in arrays:
        if descr_of(a) != dtype:  # go on in another block
            if dtype != NULL:
                blocks[<object> dtype] = block, at
            dtype = descr_of(a)
            block, at = blocks[<object> dtype]
        found.append(array_over(<void*> (at + phase_of(a)), a, block))
        at += lines_of(a)
    return found


cdef inline Py_ssize_t lines_of(cnp.ndarray a):
    """Return how many bytes an array takes, in whole lines of the cache."""
    cdef Py_ssize_t nbytes = size_of(a) * cnp.PyArray_ITEMSIZE(a)
    return (phase_of(a) + nbytes + LINE - 1) // LINE * LINE


cdef inline Py_ssize_t phase_of(cnp.ndarray a):
    """Return how many bytes behind the start of a line a long array begins; 0 for a short one."""
    return <uintptr_t> cnp.PyArray_BYTES(a) % LINE if size_of(a) >= LONG else 0


def check_target(label, array):
    """Raise unless an array can be updated in place: writable, and as `check_layout` wants it."""
    if not cnp.PyArray_ISWRITEABLE(array):
        raise ValueError(f"{label}: expected a writable array, found a read-only one")
    check_layout(label, array)


def check_targets(labels, arrays):
    """Check that each of some arrays can be updated in place; make a label only for the message."""
    for i, array in enumerate(arrays):
        if not (
            cnp.PyArray_CheckExact(array)
            and cnp.PyArray_ISWRITEABLE(array)
            and layout_format(array) is not None
        ):
            if not isinstance(array, np.ndarray):
                raise TypeError(f"{labels[i]}: {untargeted(array)}")
            check_target(labels[i], as_array(labels[i], array))


cdef Format layout_format(cnp.ndarray a):
    """Return the format of an array; None if it is unknown, or the array not aligned and dense."""
    return known_format(a) if cnp.PyArray_ISALIGNED(a) and is_dense(a) else None


cdef Format check_layout(label, cnp.ndarray a):
    """Return the format of an array; raise if it is unknown, or the array not aligned and dense.

    Whether the array is writable is asked in each step, not here: an unpickled optimizer may have
    been given memory that it can only read. It can then do everything but step.
    """
    cdef Format found = format_of(label, a)
    array = <object> a
    if not cnp.PyArray_ISALIGNED(a):
        raise ValueError(
            f"{label}: expected memory aligned to {array.itemsize} bytes, "
            f"found address {array.ctypes.data:#x}"
        )
    if not is_dense(a):
        raise ValueError(
            f"{label}: expected a dense array (C or Fortran order), "
            f"found strides {array.strides} for shape {array.shape}; pass a contiguous copy"
        )
    return found


cdef bint is_state_of(cnp.ndarray a, cnp.ndarray p):
    """Tell whether an array can be state of a parameter, whose own layout has been checked."""
    return fits(a, p) and cnp.PyArray_ISALIGNED(a) and same_strides(a, p)


cdef check_state(label, p_label, cnp.ndarray array, cnp.ndarray param):
    """Raise unless an array can be state of a parameter."""
    check_layout(label, array)
    if not fits(array, param):
        raise_unfit(label, p_label, array, param)
    if not same_strides(array, param):
        raise ValueError(
            f"{label}: expected the memory layout of {p_label} "
            f"(strides {(<object> param).strides}), found strides {(<object> array).strides}"
        )


cpdef check_zeroed(label, cnp.ndarray a):
    """Raise unless a step can write a zero wherever it has read an element."""
    if not cnp.PyArray_ISWRITEABLE(a):
        raise ValueError(
            f"{label}: expected a writable array, which the step zeroes, found a read-only one"
        )
    if overlaps_itself(a):
        raise ValueError(
            f"{label}: expected elements with memory of their own, which the step zeroes, "
            f"found strides {(<object> a).strides} for shape {(<object> a).shape}"
        )


cdef check_mask(label, mask, cnp.ndarray p):
    """Raise unless a mask has a byte for each element of a parameter, in the same order."""
    cdef cnp.ndarray m
    cdef int axis
    if cnp.PyArray_CheckExact(mask):
        m = mask
        if cnp.PyArray_TYPE(m) == cnp.NPY_BOOL and same_shape(m, p):
            for axis in range(cnp.PyArray_NDIM(p)):
                if cnp.PyArray_DIM(p, axis) != 1 and (
                    cnp.PyArray_STRIDE(m, axis) * cnp.PyArray_ITEMSIZE(p)
                    != cnp.PyArray_STRIDE(p, axis)
                ):
                    break
            else:
                return
            if size_of(p) == 0:
                return
    raise ValueError(f"{label}: expected a mask of bool laid out as its parameter, found another")


cdef raise_unfit(label, p_label, a, p, instead=""):
    """Raise; `instead` is what the message says to write for an array of another dtype."""
    if a.dtype != p.dtype:
        raise TypeError(
            f"{label}: expected dtype {p.dtype} as {p_label} has, found {a.dtype}{instead}"
        )
    raise_misshapen(label, p_label, a, p)


cdef raise_misshapen(label, p_label, a, p):
    raise ValueError(f"{label}: expected shape {p.shape} as {p_label} has, found {a.shape}")


cdef bint is_dense(cnp.ndarray a):
    """Tell whether the elements fill one block of memory without gaps, whatever the axis order."""
    cdef Walk walk
    cdef Py_ssize_t expected = cnp.PyArray_ITEMSIZE(a)
    cdef int k
    if cnp.PyArray_IS_C_CONTIGUOUS(a) or cnp.PyArray_IS_F_CONTIGUOUS(a):
        return True
    memory_order(&walk, a, a)
    for k in range(walk.axes - 1, -1, -1):
        if walk.strides[k] != expected:
            return False
        expected *= walk.shape[k]
    return True


cdef bint overlaps_itself(cnp.ndarray a):
    """Tell whether two elements may share memory, so that zeroing one changes the other."""
    cdef Walk walk
    cdef Py_ssize_t reach = cnp.PyArray_ITEMSIZE(a)
    cdef int k
    memory_order(&walk, a, a)
    for k in range(walk.axes - 1, -1, -1):
        if abs(walk.strides[k]) < reach:
            return size_of(a) > 0
        reach += (walk.shape[k] - 1) * abs(walk.strides[k])
    return False


cdef void memory_order(Walk* walk, cnp.ndarray a, cnp.ndarray like):
    """Fill in the axes of `a`, in the order in which the memory of `like` runs."""
    cdef Py_ssize_t[AXES] keys
    cdef Py_ssize_t key, length, stride
    cdef int axis, k, count = 0
    for axis in range(cnp.PyArray_NDIM(a)):
        length = cnp.PyArray_DIM(a, axis)
        if length == 1:
            continue
        key = abs(cnp.PyArray_STRIDE(like, axis))
        stride = cnp.PyArray_STRIDE(a, axis)
        k = count
        while k > 0 and keys[k - 1] < key:
            keys[k] = keys[k - 1]
            walk.shape[k] = walk.shape[k - 1]
            walk.strides[k] = walk.strides[k - 1]
            k -= 1
        keys[k] = key
        walk.shape[k] = length
        walk.strides[k] = stride
        count += 1
    walk.axes = count


cdef Range memory_of(cnp.ndarray a, Py_ssize_t owner, Py_ssize_t k):
    """Return the range of addresses from an array's lowest byte to its highest."""
    cdef Range r
    cdef Py_ssize_t reach
    cdef int axis
    r.owner = owner
    r.k = k
    r.low = <uintptr_t> cnp.PyArray_BYTES(a)
    r.high = r.low
    if size_of(a) == 0:
        return r
    for axis in range(cnp.PyArray_NDIM(a)):
        reach = (cnp.PyArray_DIM(a, axis) - 1) * cnp.PyArray_STRIDE(a, axis)
        if reach < 0:
            r.low += reach
        else:
            r.high += reach
    r.high += cnp.PyArray_ITEMSIZE(a)
    return r


cdef void sort_by_address(Range* ranges, Py_ssize_t count) noexcept nogil:
    """Sort ranges by where they begin; those that begin at one address by all else."""
    cdef Py_ssize_t n
    for n in range(1, count):
        if by_address(&ranges[n - 1], &ranges[n]) > 0:
            qsort(ranges, count, sizeof(Range), &by_address)
            return  # most arrays come in the order in which they were allocated


cdef int by_address(const void* left, const void* right) noexcept nogil:
    cdef const Range* a = <const Range*> left
    cdef const Range* b = <const Range*> right
    if a.low != b.low:
        return -1 if a.low < b.low else 1
    if a.high != b.high:
        return -1 if a.high < b.high else 1
    if a.owner != b.owner:
        return -1 if a.owner < b.owner else 1
    return (a.k > b.k) - (a.k < b.k)
