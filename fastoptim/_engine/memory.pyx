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
    LINE, LONG, Range, address_of, array_over, as_array, axes_of, check_layout, check_mask,
    check_state, check_zeroed, descr_of, dtype_of, fits, flags_of, is_dense, is_ndarray,
    flat_over, is_state_of, itemsize_of, layout_format, memory_of, overlaps_itself, raise_misshapen,
    raise_unfit, same_strides, shape_of, size_of, sort_by_address
)
from fastoptim._engine.formats cimport Format, Stored, format_of, known_format, read_as
from fastoptim._engine.layouts cimport find_route, new_route
from fastoptim._engine.rows cimport free_touched, new_touched, raise_outside, sort_out
from fastoptim._engine.staging cimport ARRAYS, EMA, STATE, Tensor, Touched
from fastoptim._engine.tuning cimport DOUBLE, GATHERED, SINGLE, SMALL, SOME_ROWS, STAGED

import numpy as np

from fastoptim._engine.foreign import as_ndarray, instead, unwritten
from fastoptim._engine.parts import ELSEWHERE
from fastoptim._rows import Rows, checked_rows
from fastoptim._stages import SQUARES_TILE

cnp.import_array()

cdef enum:
    LEAST = 1 << 16  # bytes that a step moves for each array, unless it is one of small arrays
    AWAY = 1  # the address of an array that is elsewhere, outside of waves
    GRADIENT = ARRAYS - 1  # the column of gradients among what waves bring

cdef object away = ELSEWHERE
cdef Py_ssize_t tile = SQUARES_TILE

DOUBLES = np.dtype(np.float64)
COPY = ": write g = g.copy(), and step by that g"  # instead of what cannot be changed where it is

cdef extern from "Python.h":
    Py_ssize_t PY_SSIZE_T_MAX
    # Borrowed: our own lists keep their items.
    PyObject* PyList_GET_ITEM(list items, Py_ssize_t i)
    PyObject** items_of "PySequence_Fast_ITEMS"(list items)


cdef class Tensors:
    """What a pass goes over: a table of arrays, and the gradients of the pass under way."""

    def __dealloc__(self):
        cdef Py_ssize_t i
        if self.tensors:
            for i in range(self.count):
                PyMem_Free(self.tensors[i].route)
                if self.tensors[i].touched:
                    free_touched(self.tensors[i].touched)
        PyMem_Free(self.tensors)

    cdef allocate(self, Py_ssize_t count):
        """Make room for so many tensors, all zeros."""
        self.tensors = <Tensor*> PyMem_Calloc(count + 1, sizeof(Tensor))
        if not self.tensors:
            raise MemoryError
        self.count, self.formats = count, []

    cdef bind(self, bint in_order):
        """Check all arrays of the pass under way, and note where the gradients are.

        Those in another layout are gone through `in_order` of their parameter's memory or, if that
        does not matter, in an order that suits both.
        """
        raise NotImplementedError

    cdef cnp.ndarray place_rows(self, Py_ssize_t i, Tensor* tensor, cnp.ndarray values):
        """Note where the values of rows are, and return them: as they are, or each row dense."""
        if not (cnp.PyArray_ISALIGNED(values) and are_rows_dense(values)):
            values = self.grads[i] = np.ascontiguousarray(values)
        tensor.g, tensor.gathered = cnp.PyArray_BYTES(values), True
        tensor.touched.stride = cnp.PyArray_STRIDE(values, 0)
        return values

    cdef void note_kind(self, bint gathered) noexcept:
        """Note what tells the work of the pass under way from that of others."""
        self.kind = self.kinds
        if gathered:
            self.kind |= GATHERED
        if self.by_rows:
            self.kind |= SOME_ROWS
        if self.traffic < self.count * LEAST:
            self.kind |= SMALL

    cdef bint is_fresh(self) noexcept:
        """Tell whether the pass under way belongs to the first step of a parameter."""
        cdef Py_ssize_t i
        for i in range(self.count):
            if self.tensors[i].stepped:
                return self.tensors[i].t == 0
        return False

    cdef gradient_label(self, Py_ssize_t i):
        """Return what messages call a gradient."""
        raise NotImplementedError


cdef class Gradients(Tensors):
    """Gradients alone, for the length of a call.

    There is no parameter, so that each gradient is gone through in its own memory order, and
    Python's numbers are in double precision.

    Parameters
    ----------
    labels : sequence of str
        What messages call them. It is asked only for a message.
    grads : iterable
        The gradients, what `as_ndarray` takes; None is skipped.
    writing : bool, default False
        Whether they are to be changed in place; then they must be arrays of NumPy's.

    Raises
    ------
    TypeError, ValueError
        If one is no array in a known format; with `writing`, if it is not writable, or an element
        shares memory with another one.
    """

    def __cinit__(self, labels, grads, bint writing=False):
        cdef Py_ssize_t i
        self.labels, self.grads = labels, list(grads)
        self.allocate(len(self.grads))
        for i in range(self.count):
            g = self.grads[i]
            if g is None:
                self.formats.append(None)
                continue
            if not cnp.PyArray_CheckExact(g):
                if type(g) is Rows and not writing:
                    self.add_rows(i, g)
                    continue
                if writing and not cnp.PyArray_Check(g):
                    raise TypeError(f"{labels[i]}: {unwritten(g)}")
                g = self.grads[i] = gradient_of(labels[i], g, DOUBLES)
            self.add(i, g, writing)
        if writing:
            self.check_apart()

    cdef add(self, Py_ssize_t i, cnp.ndarray g, bint writing):
        cdef Tensor* tensor = &self.tensors[i]
        cdef bint dense = is_dense(g)
        cdef Format found = known_format(g)
        if found is None:
            self.raise_unknown(i, g)
        if writing and not (cnp.PyArray_ISWRITEABLE(g) and (dense or not overlaps_itself(g))):
            self.raise_unwritable(i, g)
        tensor.stored = tensor.g_stored = &found.stored
        tensor.single, tensor.stepped = found.single, True
        tensor.loops = tensor.single
        tensor.size = tensor.extent = size_of(g)
        tensor.g = cnp.PyArray_BYTES(g)
        tensor.gathered = not (cnp.PyArray_ISALIGNED(g) and dense)
        if tensor.gathered:
            lay_route(tensor, g, g, True)
            self.kinds |= GATHERED
        self.kinds |= kinds_of(tensor)
        self.traffic += cnp.PyArray_NBYTES(g)
        self.formats.append(found)

    cdef raise_unwritable(self, Py_ssize_t i, g):
        if not g.flags.writeable:
            raise ValueError(
                f"{self.labels[i]}: expected a writable array, found a read-only one{COPY}"
            )
        raise ValueError(
            f"{self.labels[i]}: expected elements with memory of their own, "
            f"found strides {g.strides} for shape {g.shape}{COPY}"
        )

    cdef raise_unknown(self, Py_ssize_t i, g):
        try:
            format_of(self.labels[i], g)
        except TypeError as error:
            raise TypeError(f"{error}{instead(g.dtype, DOUBLES)}") from None

    cdef add_rows(self, Py_ssize_t i, g):
        """Add a gradient that has but some rows, of a parameter that has any number of them."""
        cdef Tensor* tensor = &self.tensors[i]
        cdef Py_ssize_t width = 1
        cdef cnp.ndarray values
        indices, found = checked_rows(self.labels[i], g.indices, g.values)
        values = as_array(f"{self.labels[i]}.values", found)
        for n in (<object> values).shape[1:]:
            width *= n
        self.grads[i] = values
        self.add(i, values, False)
        tensor.touched = new_touched()
        count = PY_SSIZE_T_MAX // 2 // max(width, 1)
        bad = sort_out(tensor.touched, indices, count, width)
        if bad >= 0:
            raise_outside(self.labels[i], "its parameter", indices, bad, tensor.touched, count)
        self.place_rows(i, tensor, values)
        tensor.in_rows = self.by_rows = True

    cdef bind(self, bint in_order):
        self.note_kind(False)  # all else was done when they came here

    cdef gradient_label(self, Py_ssize_t i):
        return self.labels[i]

    cdef check_apart(self):
        """Raise if two gradients share an element, which would be changed twice."""
        cdef Py_ssize_t i, k, first = 0, n = 0
        cdef uintptr_t reached = 0
        cdef Range* ranges = <Range*> PyMem_Calloc(self.count + 1, sizeof(Range))
        if not ranges:
            raise MemoryError
        try:
            for i in range(self.count):
                if self.tensors[i].size > 0:
                    ranges[n] = memory_of(self.grads[i], i, 0)
                    n += 1
            sort_by_address(ranges, n)
            for i in range(n):
                if ranges[i].low >= reached:
                    first = i  # none before it reaches so far
                for k in range(first, i):
                    if ranges[k].high > ranges[i].low:
                        self.check_two_apart(ranges[k].owner, ranges[i].owner)
                reached = max(reached, ranges[i].high)
        finally:
            PyMem_Free(ranges)

    cdef check_two_apart(self, Py_ssize_t other, Py_ssize_t i):
        """Raise if two gradients share an element: columns of one matrix do not."""
        if np.shares_memory(self.grads[i], self.grads[other]):
            raise ValueError(
                f"{self.labels[i]}: expected memory of its own, "
                f"found memory shared with {self.labels[other]}{COPY}"
            )


cdef gradient_of(label, g, real):
    """Return the ndarray of a gradient that is of a subclass, or no array of NumPy's."""
    if isinstance(g, np.ndarray):
        return as_array(label, g)
    try:
        return as_ndarray(g, real)
    except TypeError as error:
        raise TypeError(f"{label}: {error}") from error


cdef class Memory(Tensors):
    """The arrays of some parameters, checked.

    Parameters
    ----------
    entries : iterable of Entry
        The parameters and what belongs to them.
    labels : sequence of sequences of str
        What messages call each parameter, its gradient, each of its state arrays and, last, its
        average. It is asked only for a message.
    zeroing : bool
        Whether a step leaves zeros in the gradients.
    waves : Waves, optional
        What brings arrays that are elsewhere, and gradients.

    Raises
    ------
    TypeError, ValueError
        If an array cannot be updated in place, or two arrays share memory.
    """

    def __cinit__(self, entries, labels, bint zeroing=False, waves=None):
        cdef Py_ssize_t i = 0
        self.allocate(len(labels))
        self.owned = <Owned*> PyMem_Calloc(ARRAYS * self.count + 1, sizeof(Owned))
        if not self.owned:
            raise MemoryError
        self.labels, self.given, self.params, self.masks = labels, [], [], []
        self.numbers = []
        self.zeroing, self.in_waves = zeroing, waves is not None
        self.brings = self.in_waves and waves.gradients
        for entry in entries:
            if i < self.count:
                self.add(i, entry)
            i += 1
        if i != self.count:
            raise ValueError(f"labels: expected those of {i} parameters, found {self.count}")
        self.sort_ranges()

    def __dealloc__(self):
        PyMem_Free(self.owned)
        PyMem_Free(self.ranges)

    cdef add(self, Py_ssize_t i, entry):
        cdef Tensor* tensor = &self.tensors[i]
        cdef cnp.ndarray p
        cdef Format found
        cdef int k
        cdef bint measured
        (
            array, states, ema, mask, tensor.group, tensor.t, tensor.rule, numbers, measured, span
        ) = entry
        p = array if cnp.PyArray_CheckExact(array) else as_array(self.label(i, 0), array)
        found = layout_format(p)
        if found is None:
            found = check_layout(self.label(i, 0), p)
        tensor.states = len(states)
        if tensor.states + measured > STATE:
            raise ValueError(
                f"{self.label(i, 0)}: expected at most {STATE - measured} state arrays, "
                f"found {len(states)}"
            )
        tensor.size = tensor.whole = size_of(p)
        tensor.stored, tensor.single = &found.stored, found.single
        tensor.line, tensor.zeroing = -1, self.zeroing
        tensor.loops = 2 * tensor.rule + tensor.single
        tensor.direction = 1 + tensor.states if measured else 0
        tensor.first = self.owned_count
        self.formats.append(found)
        # A view stays as it is when somebody sets the shape or the dtype of the array.
        p = array_over(cnp.PyArray_DATA(p), p, array)
        self.own(array, i, 0)
        if mask is not None:
            check_mask(self.label(i, 0), mask, p)
            tensor.mask = <const unsigned char*> cnp.PyArray_BYTES(mask)
        stepped = p
        if span is not None:
            stepped = self.part(i, tensor, p, span)
            mask = None if mask is None else flat_over(<void*> tensor.mask, tensor.size, mask, mask)
        elif self.in_waves:
            raise ValueError(f"{self.label(i, 0)}: expected a range of it, found None")
        elif tensor.size >= LONG:
            tensor.head = -<uintptr_t> tensor.data[0] % LINE // found.stored.itemsize
        tensor.extent = tensor.size
        for k in range(tensor.states):
            self.own_state(states[k], stepped, i, k + 1)
        self.own_state(ema, stepped, i, EMA)
        tensor.descr, tensor.axes = descr_of(p), cnp.PyArray_NDIM(p)
        tensor.shape = shape_of(<void*> p)
        tensor.order = order_of(p)
        tensor.nbytes = size_of(p) * found.stored.itemsize
        tensor.staged = (
            self.zeroing or ema is not None or mask is not None or found.stored.load != NULL
        )
        # g is read, and zeroed if that was asked for; all others are read and written
        tensor.traffic = tensor.size * found.stored.itemsize * (
            1 + self.zeroing + 2 * arrays_of(tensor)
        )
        self.kinds |= kinds_of(tensor)
        self.params.append(p)
        self.masks.append(mask)
        self.numbers.append(numbers)

    cdef cnp.ndarray part(self, Py_ssize_t i, Tensor* tensor, cnp.ndarray p, span):
        """Let only a range of a parameter be stepped, and return that range."""
        cdef Py_ssize_t start, stop, size = tensor.size, itemsize = tensor.stored.itemsize
        start, stop = span
        if not (0 <= start <= stop <= size and start % tile == 0) or (
            stop % tile != 0 and stop != size
        ):
            raise ValueError(
                f"{self.label(i, 0)}: expected a range of its {size} elements, cut at multiples of "
                f"{tile}, found {start} to {stop}"
            )
        tensor.size, tensor.start = stop - start, start
        tensor.data[0] += start * itemsize
        if tensor.mask:
            tensor.mask += start
        tensor.shift = start * itemsize
        self.in_parts = True
        return flat_over(tensor.data[0], tensor.size, p, p)

    cdef own_state(self, array, cnp.ndarray param, Py_ssize_t i, Py_ssize_t k):
        """Check a state array that there may be, and note it as `own` does."""
        if array is None:
            return
        if not (cnp.PyArray_CheckExact(array) and is_state_of(array, param)):
            if array is away and self.in_waves:
                self.tensors[i].data[k] = <char*> AWAY
                self.tensors[i].elsewhere |= 1 << k
                return
            label = self.label(i, k)
            check_state(label, self.label(i, 0), as_array(label, array), param)
        self.own(array, i, k)

    cdef own(self, cnp.ndarray array, Py_ssize_t i, Py_ssize_t k):
        """Note where an array is that a step writes."""
        self.given.append(array)
        self.tensors[i].data[k] = cnp.PyArray_BYTES(array)
        self.owned[self.owned_count] = Owned(
            <PyObject*> array, cnp.PyArray_BYTES(array), cnp.PyArray_NBYTES(array), i, k
        )
        self.owned_count += 1

    cdef sort_ranges(self):
        """Sort the ranges of memory that a step writes, and refuse two that overlap."""
        cdef Py_ssize_t k, n, count = 0
        cdef Owned* owned
        cdef uintptr_t low
        self.ranges = <Range*> PyMem_Calloc(self.owned_count + 1, sizeof(Range))
        if not self.ranges:
            raise MemoryError
        for k in range(ARRAYS):  # those of one name often lie in their order: sorted is sorted soon
            for n in range(self.owned_count):
                owned = &self.owned[n]
                if owned.k == k and owned.nbytes > 0:
                    low = <uintptr_t> owned.data  # they are dense
                    self.ranges[count] = Range(low, low + owned.nbytes, owned.owner, k)
                    count += 1
        sort_by_address(self.ranges, count)
        self.range_count = count
        for n in range(1, count):
            if self.ranges[n].low < self.ranges[n - 1].high:
                label = self.label(self.ranges[n].owner, self.ranges[n].k)
                raise ValueError(
                    f"{label}: expected parameters and state with memory of their own, "
                    f"found memory shared with {self.label_at(n - 1)}"
                )

    cdef label(self, Py_ssize_t i, Py_ssize_t k):
        """Return the name of an array that a step writes."""
        labels = self.labels[i]
        if k == 0:
            return labels[0]
        return labels[len(labels) - 1 if k == EMA else 1 + k]

    cdef label_at(self, Py_ssize_t n):
        """Return the name of the array whose memory is the n-th range."""
        return self.label(self.ranges[n].owner, self.ranges[n].k)

    cdef gradient_label(self, Py_ssize_t i):
        return self.labels[i][1]

    cdef flat(self, Py_ssize_t i, Py_ssize_t k, Py_ssize_t start, Py_ssize_t stop):
        """Return some elements of an array that a step writes, None if there is no such array."""
        cdef const Tensor* tensor = &self.tensors[i]
        if tensor.data[k] == NULL:
            return None
        return flat_over(
            tensor.data[k] + start * tensor.stored.itemsize, stop - start, self.params[i], self
        )

    cdef flat_mask(self, Py_ssize_t i, Py_ssize_t start, Py_ssize_t stop):
        """Return some elements of a mask, None if there is none."""
        mask = self.masks[i]
        if mask is None:
            return None
        return flat_over(<void*> (self.tensors[i].mask + start), stop - start, mask, mask)

    cdef tuple rows(self, Py_ssize_t i):
        """Return where the elements of a row gradient are in their parameter, and these elements.

        This is the specification of what rows mean: the elements are those of zeros of the shape of
        the parameter, to which the values are added.
        """
        cdef Format own = self.formats[i]
        cdef const Touched* touched = self.tensors[i].touched
        cdef Py_ssize_t k
        values = self.grads[i]
        values = own.decoded(values) if values.dtype == own.dtype else values.astype(own.real)
        numbers = np.empty(touched.given, np.intp)
        for k in range(touched.given):
            numbers[touched.places[k]] = touched.rows[k]
        g = np.zeros(self.params[i].shape, own.real)
        np.add.at(g, numbers, values)
        places = np.unique(numbers)[:, None] * touched.width + np.arange(touched.width)
        return places.reshape(-1), g.reshape(-1)[places.reshape(-1)]

    cdef flat_gradient(self, Py_ssize_t i, Py_ssize_t start, Py_ssize_t stop):
        """Return some elements of a gradient in the type that they are computed on in."""
        cdef Format own = self.formats[i]
        cdef const Tensor* tensor = &self.tensors[i]
        if self.brings:
            at = tensor.g + start * tensor.stored.itemsize
            return own.decoded(flat_over(at, stop - start, self.params[i], self))
        g = in_memory_order(self.grads[i], self.params[i]).reshape(-1)
        g = g[tensor.start + start : tensor.start + stop]
        return own.decoded(g) if g.dtype == own.dtype else g.astype(own.real)

    cdef zero_gradient(self, Py_ssize_t i, Py_ssize_t start, Py_ssize_t stop):
        """Leave zeros in some elements of a gradient."""
        cdef Py_ssize_t offset = self.tensors[i].start
        in_memory_order(self.grads[i], self.params[i]).flat[offset + start : offset + stop] = 0

    cdef list all_pieces(self):
        """Return all that is stepped, as the pieces of one wave."""
        cdef Py_ssize_t i
        return [(i, 0, self.tensors[i].size) for i in range(self.count)]

    cdef collect(self, grads, casting):
        """Note which parameters have gradients; make ndarrays of gradients of other types.

        With `casting`, gradients in float64 may be rounded to float32.
        """
        cdef Py_ssize_t i, traffic = 0, count = self.count
        cdef Tensor* tensors = self.tensors
        cdef Tensor* tensor
        cdef list found = list(grads)  # another thread may change the caller's meanwhile
        cdef PyObject** items = items_of(found)
        if len(found) != count:
            raise ValueError(f"grads: expected {count} gradients, found {len(found)}")
        if self.by_rows:
            self.forget_rows()
        for i in range(count):
            tensor = &tensors[i]
            tensor.stepped = items[i] != <PyObject*> None
            if tensor.stepped:
                if not is_ndarray(items[i]):
                    found[i] = self.as_gradient(i, found[i])
                traffic += tensor.traffic if not tensor.in_rows else traffic_of_rows(tensor)
            elif tensor.data[EMA]:  # the average is read and written, p is read
                traffic += 3 * tensor.size * tensor.stored.itemsize
        self.grads, self.traffic, self.casting = found, traffic, casting

    cdef as_gradient(self, Py_ssize_t i, g):
        """Return the ndarray of a gradient that is of a subclass, or no array of NumPy's."""
        if type(g) is Rows:
            return self.note_rows(i, g)
        label = self.labels[i][1]
        if self.zeroing:
            return as_array(label, g)
        return gradient_of(label, g, (<Format> self.formats[i]).real)

    cdef note_rows(self, Py_ssize_t i, g):
        """Note which rows a gradient has, and return their values."""
        cdef Tensor* tensor = &self.tensors[i]
        cdef cnp.ndarray p = self.params[i], values
        cdef Py_ssize_t count, bad
        indices, given = g.indices, g.values
        if not are_plain_rows(indices, given):
            indices, given = checked_rows(self.labels[i][1], indices, given)
            given = np.asarray(given)
        if self.zeroing or self.in_parts or self.in_waves or not (
            cnp.PyArray_NDIM(p) > 0 and cnp.PyArray_IS_C_CONTIGUOUS(p)
        ):
            self.refuse_rows(i)
        if not tensor.touched:
            tensor.touched = new_touched()
        count = cnp.PyArray_DIM(p, 0)
        bad = sort_out(tensor.touched, indices, count, tensor.size // max(count, 1))
        if bad >= 0:
            raise_outside(self.labels[i][1], self.labels[i][0], indices, bad, tensor.touched, count)
        tensor.in_rows = self.by_rows = True
        tensor.extent = tensor.touched.count * tensor.touched.width
        values = given
        return array_over(cnp.PyArray_DATA(values), values, values)

    cdef refuse_rows(self, Py_ssize_t i):
        """Raise, as this parameter has no rows by which it could be stepped."""
        cdef cnp.ndarray p = self.params[i]
        label, p_label = self.labels[i][1], self.labels[i][0]
        if self.zeroing or self.in_parts or self.in_waves:
            how = "" if not self.in_waves else (
                f": write g = np.zeros_like({p_label}); "
                "np.add.at(g, rows.indices, rows.values), which steps all rows"
            )
            raise TypeError(f"{label}: expected an array here, found Rows{how}")
        if cnp.PyArray_NDIM(p) == 0:
            raise ValueError(f"{label}: expected a number for {p_label} without axes, found Rows")
        raise ValueError(
            f"{label}: expected an array, or {p_label} in C order beside Rows, found strides "
            f"{(<object> p).strides}: make the optimizer of np.ascontiguousarray({p_label})"
        )

    cdef forget_rows(self):
        """Let all gradients be such as have all elements, until others come."""
        cdef Py_ssize_t i
        self.by_rows = False
        for i in range(self.count):
            self.tensors[i].in_rows, self.tensors[i].extent = False, self.tensors[i].size

    cdef bind(self, bint in_order):
        self.bind_some(0, self.count, in_order or self.in_parts)
        if self.zeroing:
            self.check_all_zeroed()

    cdef bind_some(self, Py_ssize_t first, Py_ssize_t behind, bint in_order):
        """Check and note what `bind` does, of the parameters from the first to before another."""
        cdef Py_ssize_t i, owned_count = self.owned_count
        cdef Owned* owned = self.owned
        cdef Tensor* tensors = self.tensors
        cdef Tensor* tensor
        cdef PyObject** grads = items_of(self.grads)
        cdef void* g
        cdef bint gathered = False
        if behind < self.count:
            owned_count = tensors[behind].first
        for i in range(tensors[first].first, owned_count):
            if not is_as_given(&owned[i], True) and tensors[owned[i].owner].line >= 0:
                self.raise_changed(&owned[i], True)
        for i in range(first, behind):
            tensor = &tensors[i]
            if tensor.line >= 0 and tensor.stepped:
                g = grads[i]
                if tensor.in_rows:
                    self.bind_rows(i, tensor, <cnp.ndarray> g)
                elif is_laid_out_as_param(tensor, g) and is_in_gap(tensor, g):
                    tensor.g, tensor.gathered = address_of(g) + tensor.shift, False
                else:
                    self.bind_gradient(i, tensor, <cnp.ndarray> g, in_order)
                    gathered = gathered or tensor.gathered
        self.note_kind(gathered)

    cdef place(self, list pieces, addresses, bint brings):
        """Note where the arrays of a wave are that it was brought.

        With `brings`, gradients must be among them.
        """
        cdef Tensor* tensor
        cdef Py_ssize_t i, start, n, k
        cdef cnp.ndarray table
        cdef const cnp.npy_intp* row
        cdef char* at
        if addresses is None:
            addresses = np.zeros((len(pieces), ARRAYS), np.intp)
        elif not (
            cnp.PyArray_Check(addresses)
            and cnp.PyArray_TYPE(addresses) == cnp.NPY_INTP
            and cnp.PyArray_IS_C_CONTIGUOUS(addresses)
            and addresses.shape == (len(pieces), ARRAYS)
        ):
            raise TypeError(f"waves: expected {len(pieces)} x {ARRAYS} addresses, found others")
        table = addresses
        for n in range(len(pieces)):
            i, start, _ = <tuple> pieces[n]
            tensor = &self.tensors[i]
            row = <const cnp.npy_intp*> cnp.PyArray_DATA(table) + n * ARRAYS
            for k in range(ARRAYS):
                at = <char*> row[k] - start * tensor.stored.itemsize
                if k == GRADIENT:
                    if brings and tensor.stepped:
                        if row[k] == 0:
                            raise ValueError(f"waves: expected {self.labels[i][1]}, found none")
                        tensor.g, tensor.gathered = at, False
                elif tensor.elsewhere >> k + 1 & 1:
                    tensor.data[k + 1] = <char*> AWAY if row[k] == 0 else at

    cdef int check_placed(self, list pieces) except -1:
        """Raise if an array of the pieces of a wave was not brought."""
        cdef Py_ssize_t i, k
        for i, _, _ in pieces:
            for k in range(ARRAYS):
                if self.tensors[i].data[k] == <char*> AWAY:
                    raise ValueError(f"waves: expected {self.label(i, k)}, found none")
        return 0

    cdef int check_owned(self, Py_ssize_t i, bint writing) except -1:
        """Raise if an array was resized since it came here, or is to be written and read-only."""
        cdef Py_ssize_t n = self.tensors[i].first
        while n < self.owned_count and self.owned[n].owner == i:
            if not is_as_given(&self.owned[n], writing):
                self.raise_changed(&self.owned[n], writing)
            n += 1
        return 0

    cdef raise_changed(self, Owned* owned, bint writing):
        label = self.label(owned.owner, owned.k)
        if writing and not cnp.PyArray_ISWRITEABLE(<cnp.ndarray> owned.array):
            raise ValueError(f"{label}: expected a writable array, found a read-only one")
        raise ValueError(
            f"{label}: expected the memory that the optimizer was given, "
            "found an array resized since"
        )

    cdef int bind_gradient(
        self, Py_ssize_t i, Tensor* tensor, cnp.ndarray g, bint in_order
    ) except -1:
        """Check a gradient, in whatever layout it is, and note where it is."""
        cdef cnp.ndarray p = <cnp.ndarray> PyList_GET_ITEM(self.params, i)
        cdef uintptr_t low = <uintptr_t> cnp.PyArray_BYTES(g)
        cdef uintptr_t high = low + tensor.nbytes
        cdef Range r
        tensor.g_stored = tensor.stored
        if not fits(g, p):
            tensor.g_stored = self.stored_as(i, g, p, "g")
            g = self.shaped(i, g, p)
        tensor.g = cnp.PyArray_BYTES(g) + tensor.shift
        tensor.gathered = tensor.g_stored != tensor.stored or not (
            cnp.PyArray_ISALIGNED(g) and same_strides(g, p)
        )
        if tensor.gathered:
            tensor.g = cnp.PyArray_BYTES(g)
            lay_route(tensor, g, p, in_order)
            r = memory_of(g, i, 0)
            low, high = r.low, r.high
        if low < tensor.gap_low or high > tensor.gap_high:
            self.find_gap(i, tensor, low, high)
        return 0

    cdef int bind_rows(self, Py_ssize_t i, Tensor* tensor, cnp.ndarray values) except -1:
        """Check the values of rows, and note where they are."""
        cdef cnp.ndarray p = <cnp.ndarray> PyList_GET_ITEM(self.params, i)
        cdef Range r
        tensor.g_stored = tensor.stored
        if descr_of(values) != tensor.descr:
            tensor.g_stored = self.stored_as(i, values, p, "values")
        if not have_rows_of(values, p):
            values = self.shaped_rows(i, values, p)
        values = self.place_rows(i, tensor, values)
        r = memory_of(values, i, 0)
        if r.low < tensor.gap_low or r.high > tensor.gap_high:
            self.find_gap(i, tensor, r.low, r.high)
        return 0

    cdef cnp.ndarray shaped_rows(self, Py_ssize_t i, cnp.ndarray values, cnp.ndarray p):
        """Return values of rows in the shape of these rows, but for axes of length 1 their own."""
        shape, wanted = (<object> values).shape, (<object> p).shape[1:]
        if [n for n in shape[1:] if n != 1] != [n for n in wanted if n != 1]:
            raise ValueError(
                f"{self.labels[i][1]}.values: expected shape {(shape[0], *wanted)}, as the rows of "
                f"{self.labels[i][0]} have, found {shape}"
            )
        values = self.grads[i] = (<object> values).reshape((shape[0], *wanted))
        return values

    cdef const Stored* stored_as(
        self, Py_ssize_t i, cnp.ndarray g, cnp.ndarray p, str name
    ) except NULL:
        """Return how a gradient is stored; raise if its parameter cannot be stepped by it.

        One that is zeroed comes from a client that has made it for its parameter.
        """
        cdef Format own = self.formats[i]
        cdef Format found = known_format(g)
        cdef const Stored* stored = read_as(found, own)
        if stored == NULL or self.zeroing:
            how = "" if self.zeroing else instead((<object> g).dtype, own.real, name)
            raise_unfit(self.labels[i][1], self.labels[i][0], g, p, how)
        if own.single and not found.single and not self.casting:
            how = f", which would be rounded: pass {name}.astype(np.{own.real})"
            if self.casting is not None:
                how += ", or let the optimizer do so by cast_grads=True"
            raise_unfit(self.labels[i][1], self.labels[i][0], g, p, how)
        return stored

    cdef cnp.ndarray shaped(self, Py_ssize_t i, cnp.ndarray g, cnp.ndarray p):
        """Return a gradient in the shape of its parameter, but for axes of length 1 its own."""
        shape, wanted = (<object> g).shape, (<object> p).shape
        if shape != wanted:
            if [n for n in shape if n != 1] != [n for n in wanted if n != 1]:
                raise_misshapen(self.labels[i][1], self.labels[i][0], g, p)
            g = self.grads[i] = (<object> g).reshape(wanted)  # a view
        return g

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


cdef bint are_plain_rows(indices, values):
    """Tell, quickly, whether these are numbers of rows, and as many rows."""
    return (
        cnp.PyArray_CheckExact(indices)
        and cnp.PyArray_CheckExact(values)
        and cnp.PyArray_NDIM(<cnp.ndarray> indices) == 1
        and cnp.PyArray_NDIM(<cnp.ndarray> values) > 0
        and cnp.PyArray_ISINTEGER(<cnp.ndarray> indices)
        and (
            cnp.PyArray_DIM(<cnp.ndarray> indices, 0) == cnp.PyArray_DIM(<cnp.ndarray> values, 0)
        )
    )


cdef bint have_rows_of(cnp.ndarray values, cnp.ndarray p) noexcept:
    """Tell whether values have the axes of p, and the lengths of all but the first."""
    cdef int axis
    if cnp.PyArray_NDIM(values) != cnp.PyArray_NDIM(p):
        return False
    for axis in range(1, cnp.PyArray_NDIM(p)):
        if cnp.PyArray_DIM(values, axis) != cnp.PyArray_DIM(p, axis):
            return False
    return True


cdef bint are_rows_dense(cnp.ndarray values) noexcept:
    """Tell whether the elements of each row lie one behind the other, rows anywhere."""
    cdef Py_ssize_t expected = cnp.PyArray_ITEMSIZE(values)
    cdef int axis
    for axis in range(cnp.PyArray_NDIM(values) - 1, 0, -1):
        if cnp.PyArray_DIM(values, axis) != 1 and cnp.PyArray_STRIDE(values, axis) != expected:
            return False
        expected *= cnp.PyArray_DIM(values, axis)
    return True


cdef Py_ssize_t traffic_of_rows(const Tensor* tensor) noexcept:
    """Return the bytes that a step moves of a parameter whose gradient has but some rows."""
    cdef Py_ssize_t given = tensor.touched.given * tensor.touched.width
    return (given + 2 * arrays_of(tensor) * tensor.extent) * tensor.stored.itemsize


cdef in_memory_order(g, like):
    """Return a view of an array whose axes are in the order in which the memory of `like` runs."""
    return g.transpose(sorted(range(g.ndim), key=lambda axis: -like.strides[axis]))


cdef inline int arrays_of(const Tensor* tensor) noexcept:
    """Return how many arrays of a parameter a step writes."""
    cdef int k, count = 0
    for k in range(ARRAYS):
        count += tensor.data[k] != NULL
    return count


cdef inline bint is_as_given(const Owned* owned, bint writing) noexcept:
    """Tell whether an array has the memory that it came with, and can be written if it must be.

    Only an array that owns its memory can have been made shorter where it is. To look at the shape
    of all others would take longer than all else. (Another dtype has as many bytes.)
    """
    cdef void* a = owned.array
    cdef int flags = flags_of(a)
    return (
        address_of(a) == owned.data
        and (flags & cnp.NPY_ARRAY_WRITEABLE or not writing)
        and (not flags & cnp.NPY_ARRAY_OWNDATA or bytes_of(a) == owned.nbytes)
    )


cdef inline Py_ssize_t bytes_of(const void* a) noexcept:
    """Return the length of an array in bytes; NumPy's function cannot be inlined."""
    cdef Py_ssize_t nbytes = itemsize_of(a)
    cdef int axis
    for axis in range(axes_of(a)):
        nbytes *= shape_of(a)[axis]
    return nbytes


cdef inline bint is_laid_out_as_param(const Tensor* tensor, const void* g) noexcept:
    """Tell, quickly, whether a gradient fits its parameter and runs through memory as it does.

    False may also mean that the order of its axes is neither C nor Fortran order.
    """
    cdef int axis, wanted = tensor.order | cnp.NPY_ARRAY_ALIGNED
    if dtype_of(g) != tensor.descr or axes_of(g) != tensor.axes or not tensor.order:
        return False
    for axis in range(tensor.axes):
        if shape_of(g)[axis] != tensor.shape[axis]:
            return False
    return flags_of(g) & wanted == wanted


cdef inline bint is_in_gap(const Tensor* tensor, const void* g) noexcept:
    """Tell whether a gradient as dense as its parameter lies where the last one lay."""
    cdef uintptr_t low = <uintptr_t> address_of(g)
    cdef uintptr_t high = low + tensor.nbytes
    return low >= tensor.gap_low and high <= tensor.gap_high


cdef inline int order_of(cnp.ndarray a) noexcept:
    """Return the flag of C order, or of Fortran order, or 0."""
    if cnp.PyArray_IS_C_CONTIGUOUS(a):
        return cnp.NPY_ARRAY_C_CONTIGUOUS
    return cnp.NPY_ARRAY_F_CONTIGUOUS if cnp.PyArray_IS_F_CONTIGUOUS(a) else 0


cdef int kinds_of(const Tensor* tensor) noexcept:
    """Return what tells the work on a tensor from that on others, beside its gradient's layout."""
    return (SINGLE if tensor.single else DOUBLE) | (STAGED if tensor.staged else 0)


cdef int lay_route(Tensor* tensor, cnp.ndarray g, cnp.ndarray like, bint in_order) except -1:
    """Note how to go through a gradient, which may be misaligned, in the memory order of `like`."""
    if not tensor.route:
        tensor.route = new_route(cnp.PyArray_NDIM(like))
    find_route(tensor.route, g, like, in_order)
    return 0
