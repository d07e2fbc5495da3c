"""Memory: the arrays that steps work on, where they are, and whether they still are there.

This room knows all arrays of an optimizer together, and not what is computed on them. The arrays
that a step writes belong to one optimizer, and no two of them overlap. A gradient belongs to the
caller, who may bring another array each time, so each step looks up its address.
"""

cimport numpy as cnp
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from cpython.object cimport PyObject
from libc.stdint cimport UINTPTR_MAX, uintptr_t

from fastoptim._engine.arrays cimport (
    Range, as_array, check_layout, check_mask, check_state, check_zeroed, fits, is_dense, memory_of,
    raise_unfit, same_strides, size_of
)
from fastoptim._engine.formats cimport Format, format_of
from fastoptim._engine.layouts cimport find_route, new_route
from fastoptim._engine.staging cimport ARRAYS, EMA, STATE, Tensor
from fastoptim._engine.tuning cimport DOUBLE, GATHERED, SINGLE, SMALL, STAGED

import numpy as np

cnp.import_array()

cdef enum:
    LINE = 64  # bytes of a cache line, and of the longest vectors
    LONG = 2048  # elements for which it pays to let vectors begin where cache lines do
    LEAST = 1 << 16  # bytes that a step moves for each array, unless it is one of small arrays

cdef extern from "Python.h":
    PyObject* PyList_GET_ITEM(list items, Py_ssize_t i)  # borrowed: our own lists keep their items


cdef class Memory:
    """The arrays of some parameters, checked.

    Parameters
    ----------
    entries : sequence of Entry
        The parameters and what belongs to them.
    trust : bool
        Whether the rule wants a place for a direction among its state arrays.
    zeroing : bool
        Whether a step leaves zeros in the gradients.

    Raises
    ------
    TypeError, ValueError
        If an array cannot be updated in place, or two arrays share memory.
    """

    def __cinit__(self, entries, bint trust=False, bint zeroing=False):
        cdef Py_ssize_t i
        self.count = len(entries)
        self.tensors = <Tensor*> PyMem_Calloc(self.count + 1, sizeof(Tensor))
        self.ranges = <Range*> PyMem_Calloc(ARRAYS * self.count + 1, sizeof(Range))
        if not self.tensors or not self.ranges:
            raise MemoryError
        self.labels, self.formats, self.given = [], [], []
        self.params, self.states, self.emas, self.masks = [], [], [], []
        self.zeroing = zeroing
        for i in range(self.count):
            self.add(i, entries[i], trust)
        self.sort_ranges()

    @staticmethod
    def of_gradients(labels, grads):
        """Return a memory of gradients alone, arrays or NumPy scalars, which are read.

        It is for one pass. Nothing is written, so that `bind` leaves these gradients out (their
        lines are -1): where they are is noted here.
        """
        cdef Memory memory = Memory(())
        cdef Tensor* tensors = <Tensor*> PyMem_Calloc(len(grads) + 1, sizeof(Tensor))
        cdef cnp.ndarray g
        cdef Format found
        if not tensors:
            raise MemoryError
        PyMem_Free(memory.tensors)
        memory.tensors = tensors
        memory.labels = [(None, label) for label in labels]
        memory.grads = [np.asarray(x) if isinstance(x, np.floating) else x for x in grads]
        for label, array in zip(labels, memory.grads):
            g = array
            found = format_of(label, g)
            tensor = &tensors[memory.count]
            tensor.stored, tensor.single, tensor.stepped = &found.stored, found.single, True
            tensor.size, tensor.line = size_of(g), -1
            tensor.g = cnp.PyArray_BYTES(g)
            memory.count += 1
            # There is no parameter here: a gradient is read in its own memory order.
            tensor.gathered = not (cnp.PyArray_ISALIGNED(g) and is_dense(g))
            if tensor.gathered:
                lay_route(tensor, g, g, True)
            tensor.kind = kind_of(tensor)
            memory.traffic += cnp.PyArray_NBYTES(g)
            memory.formats.append(found)
        return memory

    def __dealloc__(self):
        cdef Py_ssize_t i
        if self.tensors:
            for i in range(self.count):
                PyMem_Free(self.tensors[i].route)
        PyMem_Free(self.tensors)
        PyMem_Free(self.ranges)

    cdef add(self, Py_ssize_t i, entry, bint trust):
        cdef Tensor* tensor = &self.tensors[i]
        cdef cnp.ndarray p = as_array(entry.labels[0], entry.p)
        cdef Format found = check_layout(entry.labels[0], p)
        if len(entry.state) + trust > STATE:
            raise ValueError(
                f"{entry.labels[0]}: expected at most {STATE - trust} state arrays, "
                f"found {len(entry.state)}"
            )
        tensor.size, tensor.stored, tensor.single = size_of(p), &found.stored, found.single
        tensor.group, tensor.t, tensor.line = entry.group, entry.t, -1
        tensor.direction = 1 + len(entry.state) if trust else 0
        tensor.zeroing = self.zeroing
        self.labels.append(entry.labels)
        self.formats.append(found)
        p = self.own(entry.p, i, 0)
        state = []
        for k, array in enumerate(entry.state, start=1):
            state.append(self.own_state(array, p, i, k))
        ema = self.own_state(entry.ema, p, i, EMA)
        if entry.mask is not None:
            check_mask(entry.labels[0], entry.mask, p)
            tensor.mask = <const unsigned char*> cnp.PyArray_BYTES(entry.mask)
        # g is read, and zeroed if that was asked for; p and each state array are read and written
        written = 1 + sum(array is not None for array in (*state, ema))
        tensor.traffic = cnp.PyArray_NBYTES(p) * (1 + self.zeroing + 2 * written)
        tensor.kind = kind_of(tensor)
        if tensor.size >= LONG:
            tensor.head = -<uintptr_t> tensor.data[0] % LINE // found.stored.itemsize
        self.params.append(p)
        self.states.append(state)
        self.emas.append(ema)
        self.masks.append(entry.mask)

    cdef own_state(self, array, cnp.ndarray param, Py_ssize_t i, Py_ssize_t k):
        """Check a state array that there may be, and note it as `own` does."""
        if array is None:
            return None
        label = self.label(i, k)
        check_state(label, self.labels[i][0], as_array(label, array), param)
        return self.own(array, i, k)

    cdef own(self, array, Py_ssize_t i, Py_ssize_t k):
        """Note where an array is that a step writes, and return a view of it.

        The view stays as it is when somebody sets the shape or the dtype of the array.
        """
        self.given.append(array)
        self.tensors[i].arrays[k] = <PyObject*> array
        self.tensors[i].data[k] = cnp.PyArray_BYTES(array)
        self.ranges[self.range_count] = memory_of(array, i, k)
        self.range_count += 1
        return np.ndarray.view(array, np.ndarray)

    cdef sort_ranges(self):
        """Sort the ranges of memory that a step writes, and refuse two that overlap."""
        cdef Py_ssize_t k, n = 0
        found = sorted(
            (self.ranges[k].low, self.ranges[k].high, self.ranges[k].owner, self.ranges[k].k)
            for k in range(self.range_count)
            if self.ranges[k].low < self.ranges[k].high
        )
        for low, high, owner, k in found:
            if n > 0 and low < self.ranges[n - 1].high:
                raise ValueError(
                    f"{self.label(owner, k)}: expected parameters and state with memory of their "
                    f"own, found memory shared with {self.label_at(n - 1)}"
                )
            self.ranges[n] = Range(low, high, owner, k)
            n += 1
        self.range_count = n

    cdef label(self, Py_ssize_t i, Py_ssize_t k):
        """Return the name of an array that a step writes."""
        labels = self.labels[i]
        if k == 0:
            return labels[0]
        return labels[len(labels) - 1 if k == EMA else 1 + k]

    cdef label_at(self, Py_ssize_t n):
        """Return the name of the array whose memory is the n-th range."""
        return self.label(self.ranges[n].owner, self.ranges[n].k)

    cdef collect(self, grads):
        """Note which parameters have gradients; make ndarrays of gradients of other types."""
        cdef Py_ssize_t i, traffic = 0
        cdef Tensor* tensor
        cdef PyObject* g
        cdef list found = list(grads)  # another thread may change the caller's meanwhile
        if len(found) != self.count:
            raise ValueError(f"grads: expected {self.count} gradients, found {len(found)}")
        for i in range(self.count):
            tensor = &self.tensors[i]
            g = PyList_GET_ITEM(found, i)
            tensor.stepped = g != <PyObject*> None
            if tensor.stepped:
                traffic += tensor.traffic
                if not cnp.PyArray_CheckExact(<object> g):
                    found[i] = self.as_gradient(i, found[i])
            elif tensor.data[EMA]:  # the average is read and written, p is read
                traffic += 3 * tensor.size * tensor.stored.itemsize
        self.grads, self.traffic = found, traffic

    cdef as_gradient(self, Py_ssize_t i, g):
        """Return the ndarray of a gradient that is a NumPy scalar or of a subclass, else raise."""
        if isinstance(g, np.floating) and not self.zeroing:
            return np.asarray(g)  # NumPy's reductions give scalars, for 0-d parameters
        return as_array(self.labels[i][1], g)

    cdef bind(self, bint in_order):
        """Check all arrays of the step under way, and note where the gradients are.

        Those in another layout are gone through `in_order` of their parameter's memory or, if that
        does not matter, in an order that suits both.
        """
        cdef Py_ssize_t i
        cdef Tensor* tensor
        cdef int kind = SMALL if self.traffic < self.count * LEAST else 0
        for i in range(self.count):
            tensor = &self.tensors[i]
            if tensor.line >= 0:
                self.check_tensor(i, tensor, True)
                if tensor.stepped:
                    self.bind_gradient(
                        i, tensor, <cnp.ndarray> PyList_GET_ITEM(self.grads, i), in_order
                    )
            kind |= tensor.kind | (GATHERED if tensor.stepped and tensor.gathered else 0)
        self.kind = kind
        if self.zeroing:
            self.check_all_zeroed()

    cdef bint is_fresh(self) noexcept:
        """Tell whether the step under way is the first of a parameter."""
        cdef Py_ssize_t i
        for i in range(self.count):
            if self.tensors[i].stepped:
                return self.tensors[i].t == 0
        return False

    cdef int check_owned(self, Py_ssize_t i, bint writing) except -1:
        """Raise if an array was resized since it came here, or is to be written and read-only."""
        return self.check_tensor(i, &self.tensors[i], writing)

    cdef int check_tensor(self, Py_ssize_t i, Tensor* tensor, bint writing) except -1:
        cdef cnp.ndarray a
        cdef Py_ssize_t k
        for k in range(ARRAYS):
            if not tensor.arrays[k]:
                continue
            a = <cnp.ndarray> tensor.arrays[k]
            if writing and not cnp.PyArray_ISWRITEABLE(a):
                label = self.label(i, k)
                raise ValueError(f"{label}: expected a writable array, found a read-only one")
            if cnp.PyArray_BYTES(a) != tensor.data[k] or (
                # an array whose dtype was set since has more or fewer elements in as many bytes
                size_of(a) != tensor.size
                and size_of(a) * cnp.PyArray_ITEMSIZE(a) != tensor.size * tensor.stored.itemsize
            ):
                label = self.label(i, k)
                raise ValueError(
                    f"{label}: expected the memory that the optimizer was given, "
                    "found an array resized since"
                )
        return 0

    cdef int bind_gradient(
        self, Py_ssize_t i, Tensor* tensor, cnp.ndarray g, bint in_order
    ) except -1:
        cdef cnp.ndarray p = <cnp.ndarray> PyList_GET_ITEM(self.params, i)
        cdef uintptr_t low = <uintptr_t> cnp.PyArray_BYTES(g)
        cdef uintptr_t high = low + tensor.size * tensor.stored.itemsize  # if g is as dense as p
        cdef Range r
        if not fits(g, p):
            raise_unfit(self.labels[i][1], self.labels[i][0], g, p)
        tensor.g = cnp.PyArray_BYTES(g)
        tensor.gathered = not (cnp.PyArray_ISALIGNED(g) and same_strides(g, p))
        if tensor.gathered:
            lay_route(tensor, g, p, in_order)
            r = memory_of(g, i, 0)
            low, high = r.low, r.high
        if low < tensor.gap_low or high > tensor.gap_high:
            self.find_gap(i, tensor, low, high)
        return 0

    cdef int find_gap(
        self, Py_ssize_t i, Tensor* tensor, uintptr_t low, uintptr_t high
    ) except -1:
        """Find the gap that a gradient lies in; raise if a step would write into the gradient."""
        cdef Py_ssize_t first = 0, behind = self.range_count, middle
        if low == high:
            return 0
        while first < behind:  # search for the first range that ends behind the start of g
            middle = (first + behind) >> 1
            if self.ranges[middle].high <= low:
                first = middle + 1
            else:
                behind = middle
        tensor.gap_low = self.ranges[first - 1].high if first > 0 else 0
        tensor.gap_high = self.ranges[first].low if first < self.range_count else UINTPTR_MAX
        if high > tensor.gap_high:
            raise ValueError(
                f"{self.labels[i][1]}: expected memory apart from all parameters and state, found "
                f"memory shared with {self.label_at(first)}"
            )
        return 0

    cdef check_all_zeroed(self):
        """Raise unless a step can zero each gradient without changing another one."""
        cdef Py_ssize_t i
        cdef Range r
        found = []
        for i in range(self.count):
            if self.grads[i] is not None:
                check_zeroed(self.labels[i][1], self.grads[i])
                r = memory_of(self.grads[i], i, 0)
                if r.low < r.high:
                    found.append((r.low, r.high, i))
        found.sort()
        for (_, high, i), (low, _, other) in zip(found, found[1:]):
            if low < high:
                raise ValueError(
                    f"{self.labels[other][1]}: expected memory apart from all gradients, which the "
                    f"step zeroes, found memory shared with {self.labels[i][1]}"
                )

    def first_nonfinite(self):
        """Return the name of the first gradient of the step under way with a NaN or infinity."""
        cdef Py_ssize_t i
        for i in range(self.count):
            if self.tensors[i].stepped:
                g = (<Format> self.formats[i]).decoded(self.grads[i])
                if not np.isfinite(g).all():
                    return self.labels[i][1]
        return None


cdef int kind_of(const Tensor* tensor) noexcept:
    """Return what tells the work on a tensor from that on others, beside its gradient's layout."""
    cdef bint staged = (
        tensor.stored.load != NULL or tensor.zeroing or tensor.mask != NULL
        or tensor.data[EMA] != NULL
    )
    return (SINGLE if tensor.single else DOUBLE) | (STAGED if staged else 0)


cdef int lay_route(Tensor* tensor, cnp.ndarray g, cnp.ndarray like, bint in_order) except -1:
    """Note how to go through a gradient, which may be misaligned, in the memory order of `like`."""
    if not tensor.route:
        tensor.route = new_route(cnp.PyArray_NDIM(like))
    find_route(tensor.route, g, like, in_order)
    return 0
