"""The engine: it turns all arrays of an optimizer into one flat space of elements and steps them.

It knows no rule: a kernel reaches it as a pointer, the scalars of a step as a tuple of floats.

A `Plan` is made once from the parameters and their state. `Plan.step` then

1. asks for the scalars of this step, once for each group and step count (`Plan.fill_rows`): the
   schedules among them are code of the user, who may do anything to any array meanwhile,
2. checks every array (`Plan.bind`) before anything moves, and once more before each further pass
   over memory; no code of the user runs between a check and the pass,
3. runs the tasks in one parallel region, without the GIL unless the step is short
   (`Plan.for_each`); a task is a fixed range of the flat space, so many small arrays and a large
   one cost the same,
4. counts the step.

Every element is computed by the same expression wherever the task boundaries fall, so the result
depends neither on the number of threads nor on who ran which task.
"""

from cpython.mem cimport PyMem_Calloc, PyMem_Free, PyMem_Realloc
from cpython.object cimport PyObject
from cpython.pycapsule cimport PyCapsule_GetPointer
from cpython.pythread cimport PyThread_get_thread_ident
from libc.float cimport DBL_MIN, FLT_MIN
from libc.math cimport INFINITY
from libc.stdint cimport UINTPTR_MAX, uintptr_t
from libc.string cimport memcpy, memset

cimport cython
cimport numpy as cnp

from fastoptim._engine.arrays cimport (
    AXES, Range, Walk, advance, as_array, check_layout, check_mask, check_state, check_zeroed, fits,
    memory_of, memory_order, raise_unfit, same_strides, size_of
)
from fastoptim._engine.changes cimport change, swap
from fastoptim._engine.threads cimport (
    flushing, fo_get_mode, fo_mode, fo_set_mode, forks, run, task_t, threads_for
)
from fastoptim._kernel cimport (
    after32, after64, f32, f64, kernel32, kernel64, squares32, squares64
)

import numpy as np

from fastoptim._stages import after, before, kept, sum_of_squares, trust_ratio

cnp.import_array()

cdef extern from "Python.h":
    PyObject* PyList_GET_ITEM(list items, Py_ssize_t i)  # borrowed: an item of our own list stays

cdef enum:
    STATE = 3  # arrays of a rule, at the most
    EMA = STATE + 1  # the place of the average among the arrays that a step writes, behind p
    ARRAYS = EMA + 1  # and the number of all of them
    BEFORE = 5  # scalars of the stage before a rule
    AFTER = 4  # and after it
    OWN = 16  # of a rule, at the most
    SCALARS = BEFORE + AFTER + OWN  # of a row
    TILE = 512  # elements of a gathered gradient at a time: 4 KB on the stack
    TASK = 16384  # elements of the flat space that a thread takes at a time
    SQUARES_TILE = 2048  # elements whose squares are summed at a time, as in _stages.py
    BLOCK = 16  # tiles that a thread takes at a time

most_state, most_scalars = STATE, OWN  # of a rule

ctypedef fused real:
    f32
    f64

cdef struct Tensor:
    (PyObject*)[ARRAYS] arrays  # p and the state arrays as given, NULL where there is none
    (char*)[ARRAYS] data
    char* g
    Py_ssize_t size
    Py_ssize_t itemsize
    Py_ssize_t traffic  # bytes that a step moves
    void* kernel
    void* after
    void* squares
    const unsigned char* mask
    int direction  # where a rule with a trust ratio wants u among its arrays
    Py_ssize_t group
    Py_ssize_t t  # steps taken
    bint stepped  # in the step under way: whether there is a gradient
    Py_ssize_t row  # of the scalars of that step; -1: neither a gradient nor an average
    bint unstarted  # whether the average is to start at the next step, as the parameter is then
    Walk* walk  # allocated when a gradient first needs it
    bint gathered  # in the step under way
    bint zeroing  # whether the step leaves zeros in g
    uintptr_t gap_low  # memory between the ranges that a step writes, where the last g lay
    uintptr_t gap_high

cdef bint holds(given, list arrays):
    """Tell, quickly, whether a list or dict of the caller starts with these arrays.

    False may also mean that it is of another type, or has them in another order.
    """
    cdef Py_ssize_t i = 0, count = len(arrays)
    if type(given) is list:
        with cython.critical_section(given):
            if len(<list> given) < count:
                return False
            for i in range(count):
                if PyList_GET_ITEM(<list> given, i) != PyList_GET_ITEM(arrays, i):
                    return False
            return True
    if type(given) is dict:
        for value in (<dict> given).values():
            if i == count or value is not arrays[i]:
                break
            i += 1
        return i == count
    return False


cdef class Plan:
    """All arrays of an optimizer, checked and laid out for `step`.

    Parameters
    ----------
    tensors : list of tuples
        ``(labels, group, t, p, state, ema, mask)`` for each parameter: the names of p, g, the
        state arrays and the average in messages; the number of its group; the steps taken so far;
        the array; a tuple of state arrays (None where there is none); the average of p, and the
        mask of the elements that are kept, an array of bool laid out like p, or None.
    update : function
        What updates in NumPy.
    loops : mapping or None
        What updates instead of it, by the size of an element: the capsules of the compiled loops
        ``"rule"``, ``"after"`` and ``"squares"``.
    trust : bool
        Whether a trust ratio scales the step of each array; see `fastoptim._rule.Rule`.
    zeroing : bool
        Whether a step leaves zeros in the gradients, each written as soon as it has been used.
    unstarted : sequence of bool
        For each parameter whether its average is to start at the next step, as the parameter is
        then; of none, all averages go on from what they are.
    watched : sequence of tuples
        ``(given, arrays, check)``: a list or mapping of the caller's, the arrays that it held, and
        what to call in a step where that is not plain to see. It raises if one was replaced.

    Raises
    ------
    TypeError, ValueError
        If an array cannot be updated in place, or two arrays share memory.
    """

    cdef Tensor* tensors
    cdef Range* ranges  # of parameters and state, sorted by address, none overlapping
    cdef Py_ssize_t* first_tensor  # of each task
    cdef Py_ssize_t* first_element
    cdef double* scalars64
    cdef float* scalars32
    cdef Py_ssize_t count, range_count, total, tasks, rows, row_capacity, traffic
    cdef double squares_scale
    cdef bint busy, retired
    cdef unsigned long user  # the thread that steps, and
    cdef int user_forks  # the process that it was in
    cdef Py_ssize_t unstarted_count
    cdef Py_ssize_t tile_count
    cdef Py_ssize_t* tile_tensor  # of each tile whose squares are summed; made when first needed
    cdef Py_ssize_t* tile_start
    cdef double* tile_sums
    cdef list given  # keeps alive the arrays that are written; the lists of them hold views
    cdef tuple watched
    cdef list labels, params, states, emas, masks, grads, row_scalars
    cdef double* tile_sums_of_p  # beside those of the gradient or the direction
    cdef object update, loops
    cdef bint trust, zeroing
    cdef bint flush  # denormals, in the step under way
    cdef readonly bint shows_ema  # whether parameters and averages have changed places

    def __cinit__(
        self, list tensors, update=None, loops=None, bint trust=False, bint zeroing=False,
        unstarted=(), watched=(),
    ):
        self.count = len(tensors)
        self.tensors = <Tensor*> PyMem_Calloc(self.count + 1, sizeof(Tensor))
        self.ranges = <Range*> PyMem_Calloc(ARRAYS * self.count + 1, sizeof(Range))
        if not self.tensors or not self.ranges:
            raise MemoryError
        cdef Py_ssize_t i
        self.labels, self.given = [], []
        self.params, self.states, self.emas, self.masks = [], [], [], []
        self.update, self.loops, self.trust, self.zeroing = update, loops, trust, zeroing
        self.watched = tuple(watched)
        for i in range(self.count):
            self.add(i, tensors[i])
        for i, new in enumerate(unstarted):
            self.tensors[i].unstarted = new and self.tensors[i].data[EMA] != NULL
            self.unstarted_count += self.tensors[i].unstarted
        self.sort_ranges()
        self.cut_tasks()

    def __dealloc__(self):
        cdef Py_ssize_t i
        if self.tensors:
            for i in range(self.count):
                PyMem_Free(self.tensors[i].walk)
        PyMem_Free(self.tensors)
        PyMem_Free(self.ranges)
        PyMem_Free(self.first_tensor)
        PyMem_Free(self.first_element)
        PyMem_Free(self.tile_tensor)
        PyMem_Free(self.tile_start)
        PyMem_Free(self.tile_sums)
        PyMem_Free(self.tile_sums_of_p)
        PyMem_Free(self.scalars64)
        PyMem_Free(self.scalars32)

    cdef add(self, Py_ssize_t i, tuple entry):
        labels, group, t, p, state, ema, mask = entry
        cdef Tensor* tensor = &self.tensors[i]
        cdef cnp.ndarray array = as_array(labels[0], p)
        check_layout(labels[0], array)
        if len(state) + self.trust > STATE:
            raise ValueError(
                f"{labels[0]}: expected at most {STATE - self.trust} state arrays, "
                f"found {len(state)}"
            )
        tensor.size = size_of(array)
        tensor.itemsize = cnp.PyArray_ITEMSIZE(array)
        tensor.group, tensor.t, tensor.row = group, t, -1
        tensor.direction = 1 + len(state)
        tensor.zeroing = self.zeroing
        if self.loops is not None:
            tensor.kernel = self.loop("rule", tensor.itemsize)
            tensor.after = self.loop("after", tensor.itemsize)
            tensor.squares = self.loop("squares", tensor.itemsize)
        array = self.own(p, i, 0)
        self.labels.append(labels)
        arrays = []
        for k, s in enumerate(state, start=1):
            arrays.append(self.own_state(s, array, i, k))
        ema = self.own_state(ema, array, i, EMA)
        if mask is not None:
            check_mask(labels[0], mask, array)
            tensor.mask = <const unsigned char*> cnp.PyArray_BYTES(mask)
        # g is read, and zeroed if that was asked for; p and each state array are read and written
        written = 1 + sum(s is not None for s in (*arrays, ema))
        tensor.traffic = cnp.PyArray_NBYTES(array) * (1 + self.zeroing + 2 * written)
        self.params.append(array)
        self.states.append(arrays)
        self.emas.append(ema)
        self.masks.append(mask)

    cdef void* loop(self, name, Py_ssize_t itemsize) except NULL:
        return PyCapsule_GetPointer(self.loops[name][itemsize], "fastoptim.kernel")

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

    cdef cut_tasks(self):
        """Cut the flat space of all elements into tasks, and note where each begins."""
        cdef Py_ssize_t i, task = 0, start = 0
        for i in range(self.count):
            self.total += self.tensors[i].size
        self.tasks = (self.total + TASK - 1) // TASK
        self.first_tensor = <Py_ssize_t*> PyMem_Calloc(self.tasks + 1, sizeof(Py_ssize_t))
        self.first_element = <Py_ssize_t*> PyMem_Calloc(self.tasks + 1, sizeof(Py_ssize_t))
        if not self.first_tensor or not self.first_element:
            raise MemoryError
        for i in range(self.count):
            while task < self.tasks and task * TASK < start + self.tensors[i].size:
                self.first_tensor[task] = i
                self.first_element[task] = task * TASK - start
                task += 1
            start += self.tensors[i].size

    @property
    def steps(self):
        """The number of steps that each parameter has taken."""
        return [self.tensors[i].t for i in range(self.count)]

    @steps.setter
    def steps(self, counts):
        cdef Py_ssize_t i
        counts = [<Py_ssize_t> count for count in counts]
        if len(counts) != self.count:
            raise ValueError(f"steps: expected {self.count} counts, found {len(counts)}")
        self.enter()
        for i in range(self.count):
            self.tensors[i].t = counts[i]
        self.leave()

    @property
    def unstarted(self):
        """Whether the average of each parameter is to start at the next step."""
        return [self.tensors[i].unstarted for i in range(self.count)]

    def step(self, grads, groups, double scale=1.0, judge=None, bint flush=False):
        """Take one step, and tell whether it was taken.

        Parameters
        ----------
        grads : sequence
            A gradient, or None, for each parameter.
        groups : sequence
            ``groups[k].scalars(t)``: the scalars of the t-th step of group k, three tuples: those
            of the stage before the rule, of the stage after it, and of the rule.
        scale : float, optional
            What all gradients are multiplied by.
        judge : function, optional
            ``judge(scale)`` may ask for `sum_of_squares`, which checks the gradients; it returns
            the scale to take the step with, or None to take none, and what to
            `change` together with the step.
        flush : bool, default False
            Take denormal numbers for zero in the loops, and only there.

        Raises
        ------
        TypeError, ValueError
            If a gradient does not fit; then nothing has changed.
        RuntimeError
            If the plan is in a step already.
        """
        changes = ()
        self.enter()
        self.flush = flush
        try:
            for given, arrays, check in self.watched:
                if not holds(given, arrays):
                    check()
            self.collect(grads)
            self.fill_rows(groups)
            if self.unstarted_count > 0:
                self.start_from_rows()
            if judge is not None:
                judged, changes = judge(scale)
                if judged is None:
                    change(changes)
                    return False
                scale = judged
            self.scale_gradients(scale)
            self.store_rows()
            if self.trust:
                self.scale_rows()
            if self.loops is None:
                self.run_updates()
            else:
                self.for_each(run_task, self.tasks)
            self.count_step()
            if changes:
                change(changes)
            return True
        finally:
            self.grads = None
            self.leave()

    def measure(self, grads, measuring):
        """Return what `measuring` returns, which may ask for `sum_of_squares` of the gradients.

        They are checked as those of a step are, which is not taken.
        """
        cdef Py_ssize_t i
        self.enter()
        self.flush = False
        try:
            self.collect(grads)
            for i in range(self.count):
                self.tensors[i].row = 0 if self.tensors[i].stepped else -1
            self.bind()
            return measuring()
        finally:
            self.grads = None
            self.leave()

    cdef int enter(self) except -1:
        """Keep everybody else from stepping until `leave`, or raise if somebody does."""
        cdef unsigned long here = PyThread_get_thread_ident()
        with cython.critical_section(self):  # only one of two gets in, also without a GIL
            if self.retired:
                raise RuntimeError(
                    "this optimizer was given other groups, state or options as the call began: "
                    "call it again"
                )
            if self.is_in_use():
                raise RuntimeError("this optimizer is in use already, " + (
                    "in this thread: by a call that has called a schedule or a signal handler, "
                    "which must not use it" if self.user == here else "in another thread"
                ))
            self.busy = True
            self.user, self.user_forks = here, forks()
        return 0

    @property
    def in_use(self):
        """Whether a step or another call that `enter`s is under way."""
        return self.is_in_use()

    cdef bint is_in_use(self) noexcept:
        # In a child of fork() all threads of the parent are gone but for the one that forked.
        return self.busy and (
            self.user_forks == forks() or self.user == PyThread_get_thread_ident()
        )

    cdef void leave(self) noexcept:
        with cython.critical_section(self):
            self.busy = False

    def __enter__(self):
        self.enter()
        return self

    def __exit__(self, *_):
        self.leave()

    def retire(self, changes, values):
        """Take no step any more: with these changes, another plan takes over the arrays.

        If there are values, one for each parameter, the parameters become them.
        """
        cdef Py_ssize_t i
        changes = list(changes)  # what may raise, or be interrupted, comes first
        for i in range(self.count if values else 0):
            self.check_owned(i, &self.tensors[i], True)
        self.retired = True  # another thread may have looked this plan up already
        for p, value in zip(self.params, values):
            p[...] = value
        change(changes)

    cdef int swap_ema(self) except -1:
        """Let parameters and averages change places."""
        cdef Py_ssize_t i
        cdef Tensor* tensor
        for i in range(self.count):
            self.check_owned(i, &self.tensors[i], True)
        for i in range(self.count):
            tensor = &self.tensors[i]
            if tensor.data[EMA]:
                swap(tensor.data[0], tensor.data[EMA], tensor.size * tensor.itemsize)
        self.shows_ema = not self.shows_ema
        return 0

    cdef start_from_rows(self):
        """Start the averages that are to start with the step under way."""
        cdef Py_ssize_t i
        for i in range(self.count):
            if self.tensors[i].unstarted:
                self.start_average(i, self.row_scalars[self.tensors[i].row][1])

    def start_averages(self, groups):
        """Let averages that are to start at the next step be what they would start from now.

        So can be seen what a step would go on from. The groups are those of `step`.
        """
        cdef Py_ssize_t i
        for i in range(self.count if self.unstarted_count else 0):
            if self.tensors[i].unstarted:
                scalars = groups[self.tensors[i].group].scalars(self.tensors[i].t + 1)
                self.start_average(i, scalars[1])

    cdef start_average(self, Py_ssize_t i, after_scalars):
        """Copy a parameter into its average, within the bounds and the mask."""
        cdef Tensor* tensor = &self.tensors[i]
        low, high = typed(after_scalars[:2], self.emas[i].dtype)
        self.check_owned(i, tensor, False)
        memcpy(tensor.data[EMA], tensor.data[0], tensor.size * tensor.itemsize)
        self.emas[i][...] = kept(self.emas[i], self.masks[i], low, high)

    cdef count_step(self):
        """Note that a step was taken."""
        cdef Py_ssize_t i
        for i in range(self.count):
            self.tensors[i].t += self.tensors[i].stepped
        if self.unstarted_count > 0:
            for i in range(self.count):
                self.tensors[i].unstarted = False
            self.unstarted_count = 0

    cdef collect(self, grads):
        """Note which parameters have gradients; make arrays of those that are not quite."""
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
                    found[i] = self.gradient(i, found[i])
            elif tensor.data[EMA]:  # which is read and written, and p read
                traffic += 3 * tensor.size * tensor.itemsize
        self.grads, self.traffic = found, traffic

    cdef gradient(self, Py_ssize_t i, g):
        """Return the array that a gradient of another type is."""
        if isinstance(g, np.floating) and not self.zeroing:
            return np.asarray(g)  # NumPy's reductions give scalars, for 0-d parameters
        return as_array(self.labels[i][1], g)

    cdef bind(self):
        """Check all arrays of the step under way, and note where the gradients are."""
        cdef Py_ssize_t i
        cdef Tensor* tensor
        for i in range(self.count):
            tensor = &self.tensors[i]
            if tensor.row >= 0:
                self.check_owned(i, tensor, True)
                if tensor.stepped:
                    self.bind_one(i, tensor, <cnp.ndarray> PyList_GET_ITEM(self.grads, i))
        if self.zeroing:
            self.check_all_zeroed(self.grads)

    cdef check_all_zeroed(self, list grads):
        """Raise unless the step can zero each element of the gradients, and then no other."""
        cdef Py_ssize_t i
        cdef Range r
        found = []
        for i in range(self.count):
            if grads[i] is not None:
                check_zeroed(self.labels[i][1], grads[i])
                r = memory_of(grads[i], i, 0)
                if r.low < r.high:
                    found.append((r.low, r.high, i))
        found.sort()
        for (_, high, i), (low, _, other) in zip(found, found[1:]):
            if low < high:
                raise ValueError(
                    f"{self.labels[other][1]}: expected memory apart from all gradients, which the "
                    f"step zeroes, found memory shared with {self.labels[i][1]}"
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

    cdef int check_owned(self, Py_ssize_t i, Tensor* tensor, bint writing) except -1:
        """Raise if an array was moved since the plan was made, or frozen and is to be written."""
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
                size_of(a) != tensor.size  # of another dtype, since, there may be more or fewer
                and size_of(a) * cnp.PyArray_ITEMSIZE(a) != tensor.size * tensor.itemsize
            ):
                label = self.label(i, k)
                raise ValueError(
                    f"{label}: expected the memory that the optimizer was given, "
                    "found an array resized since"
                )
        return 0

    cdef int bind_one(self, Py_ssize_t i, Tensor* tensor, cnp.ndarray g) except -1:
        cdef cnp.ndarray p = <cnp.ndarray> self.params[i]
        cdef uintptr_t low = <uintptr_t> cnp.PyArray_BYTES(g)
        cdef uintptr_t high = low + tensor.size * tensor.itemsize  # if it is dense, as p is
        cdef Range r
        if not fits(g, p):
            raise_unfit(self.labels[i][1], self.labels[i][0], g, p)
        tensor.g = cnp.PyArray_BYTES(g)
        tensor.gathered = not (cnp.PyArray_ISALIGNED(g) and same_strides(g, p))
        if tensor.gathered:
            if not tensor.walk:
                tensor.walk = <Walk*> PyMem_Calloc(1, sizeof(Walk))
                if not tensor.walk:
                    raise MemoryError
            memory_order(tensor.walk, g, p)
            r = memory_of(g, i, 0)
            low, high = r.low, r.high
        if low < tensor.gap_low or high > tensor.gap_high:
            self.find_gap(i, tensor, low, high)
        return 0

    cdef int find_gap(
        self, Py_ssize_t i, Tensor* tensor, uintptr_t low, uintptr_t high
    ) except -1:
        """Find the gap that a gradient lies in; raise if a step would write into it."""
        cdef Py_ssize_t first = 0, behind = self.range_count, middle
        if low == high:
            return 0
        while first < behind:  # for the first range that ends behind the start of g
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

    cdef fill_rows(self, groups):
        """Ask for the scalars of this step: one row for each group and step count."""
        cdef Py_ssize_t i, row = -1, group = -1, t = -1
        cdef Tensor* tensor
        self.row_scalars = []
        seen = {}
        for i in range(self.count):
            tensor = &self.tensors[i]
            if not tensor.stepped and not tensor.data[EMA]:
                tensor.row = -1
                continue
            if self.trust or tensor.group != group or tensor.t != t:
                group, t = tensor.group, tensor.t
                row = self.row_of(seen, groups, group, t)
            tensor.row = row

    cdef Py_ssize_t row_of(
        self, dict seen, groups, Py_ssize_t group, Py_ssize_t t
    ) except -1:
        row = len(self.row_scalars)
        first = seen.setdefault((group, t), row)
        if first == row:
            self.row_scalars.append(groups[group].scalars(t + 1))
        elif self.trust:  # each array has a learning rate of its own
            self.row_scalars.append(self.row_scalars[first])
        else:
            row = first
        return row

    cdef scale_gradients(self, double scale):
        """Let the stage before the rule multiply the gradients by a further number."""
        if scale != 1:
            self.row_scalars = [
                ((scale * first[0], *first[1:]), last, own) for first, last, own in self.row_scalars
            ]

    cdef store_rows(self):
        cdef Py_ssize_t i
        self.grow_rows(len(self.row_scalars))
        for i in range(len(self.row_scalars)):
            first, last, own = self.row_scalars[i]
            if len(first) != BEFORE or len(last) != AFTER or len(own) > OWN:
                raise ValueError(
                    f"scalars: expected {BEFORE}, {AFTER} and at most {OWN} of them, "
                    f"found {len(first)}, {len(last)} and {len(own)}"
                )
            self.store(i * SCALARS, first)
            self.store(i * SCALARS + BEFORE, last)
            self.store(i * SCALARS + BEFORE + AFTER, own)

    cdef store(self, Py_ssize_t at, tuple values):
        cdef Py_ssize_t k
        for k in range(len(values)):
            self.scalars64[at + k] = values[k]
            self.scalars32[at + k] = <float> self.scalars64[at + k]
            if self.flush:  # a minimum returns zero for a denormal bound, a comparison the bound
                if -DBL_MIN < self.scalars64[at + k] < DBL_MIN:
                    self.scalars64[at + k] = 0
                if -FLT_MIN < self.scalars32[at + k] < FLT_MIN:
                    self.scalars32[at + k] = 0

    cdef scale_rows(self):
        """Multiply the learning rate of each array by its trust ratio."""
        sums = self.reference_sums() if self.loops is None else self.direction_sums()
        for i, p_squares, u_squares in sums:
            row = self.tensors[i].row
            first, last, own = self.row_scalars[row]
            lr = own[0] * trust_ratio(p_squares, u_squares, own[1])
            self.row_scalars[row] = first, last, (lr, *own[1:])
        self.store_rows()

    cdef reference_sums(self):
        """Return the sums of the squares of each parameter and of the direction of its step."""
        found = []
        self.bind()
        scalars = self.typed_scalars()
        with Loops(self.flush):
            for i in scalars:
                if not self.tensors[i].stepped:
                    continue
                p, *state, _ = self.copies(i)
                u = np.empty_like(p)
                self.update_one(i, p, state, u, scalars[i])
                squares = [list(sum_of_squares(x, p, 1.0)) for x in (p, u)]
                found.append((i, squares))
        return [(i, in_order(p), in_order(u)) for i, (p, u) in found]

    cdef direction_sums(self):
        """Return what `reference_sums` returns, from the compiled loops."""
        cdef Py_ssize_t tile, i
        cdef double p_squares, u_squares
        self.cut_tiles()
        self.for_each(sum_directions, (self.tile_count + BLOCK - 1) // BLOCK)
        sums, tile = [], 0
        for i in range(self.count):
            p_squares = u_squares = 0
            while tile < self.tile_count and self.tile_tensor[tile] == i:
                p_squares += self.tile_sums_of_p[tile]
                u_squares += self.tile_sums[tile]
                tile += 1
            if self.tensors[i].stepped:
                sums.append((i, p_squares, u_squares))
        return sums

    cdef void sum_direction(self, Py_ssize_t tile) noexcept nogil:
        cdef Tensor* tensor = &self.tensors[self.tile_tensor[tile]]
        cdef Py_ssize_t start = self.tile_start[tile], row = tensor.row * SCALARS
        if not tensor.stepped:
            return
        if tensor.itemsize == sizeof(float):
            self.tile_sums[tile] = direction_squares(
                <f32> &self.scalars32[row], tensor, start, &self.tile_sums_of_p[tile]
            )
        else:
            self.tile_sums[tile] = direction_squares(
                <f64> &self.scalars64[row], tensor, start, &self.tile_sums_of_p[tile]
            )

    cdef grow_rows(self, Py_ssize_t rows):
        if rows <= self.row_capacity:
            return
        wide = PyMem_Realloc(self.scalars64, rows * SCALARS * sizeof(double))
        if not wide:
            raise MemoryError
        self.scalars64 = <double*> wide
        narrow = PyMem_Realloc(self.scalars32, rows * SCALARS * sizeof(float))
        if not narrow:
            raise MemoryError
        self.scalars32 = <float*> narrow
        self.row_capacity = rows

    cdef run_updates(self):
        """Step with the NumPy twins, on the same scalars.

        They update copies: an error or an interrupt in the middle leaves the arrays as they were.
        """
        cdef Py_ssize_t i, k
        found = []
        self.bind()
        scalars = self.typed_scalars()
        with Loops(self.flush):
            for i in scalars:
                found.append((i, self.updated(i, scalars[i])))
        self.bind()  # code of the user, such as a signal handler, may have run since
        for i, arrays in found:
            for k in range(ARRAYS):
                if arrays[k] is not None:
                    a = <cnp.ndarray> arrays[k]
                    memcpy(self.tensors[i].data[k], cnp.PyArray_BYTES(a), cnp.PyArray_NBYTES(a))
            if self.zeroing and self.tensors[i].stepped:
                self.grads[i][...] = 0

    cdef dict typed_scalars(self):
        """Return the scalars of each parameter that has a gradient, as the kernels have them."""
        cdef Py_ssize_t at, i, k
        found = {}
        for i in range(self.count):
            if self.tensors[i].row < 0:
                continue
            kind, parts = self.params[i].dtype.type, []
            at = self.tensors[i].row * SCALARS
            for part, room in zip(self.row_scalars[self.tensors[i].row], (BEFORE, AFTER, 0)):
                if self.tensors[i].itemsize == sizeof(float):
                    parts.append([kind(self.scalars32[at + k]) for k in range(len(part))])
                else:
                    parts.append([kind(self.scalars64[at + k]) for k in range(len(part))])
                at += room
            found[i] = parts
        return found

    cdef list copies(self, Py_ssize_t i):
        """Return copies of p, the state arrays and the average, None where there is none."""
        self.check_owned(i, &self.tensors[i], True)
        arrays = self.params[i], *self.states[i], self.emas[i]
        return [None if a is None else a.copy(order="K") for a in arrays]

    cdef updated(self, i, scalars):
        """Return what is written to p, the state arrays and the average, None for what stays."""
        p, *state, ema = self.copies(i)
        if self.tensors[i].stepped:
            self.update_one(i, p, state, None, scalars)
        after(p, ema, self.masks[i], *scalars[1])
        if not self.tensors[i].stepped:  # only the average moves
            p, state = None, [None] * len(state)
        return [p, *state, *[None] * (STATE - len(state)), ema]

    cdef update_one(self, i, p, state, u, scalars):
        """Update one parameter, or only write the direction of its step to u."""
        first, _, own = scalars
        g = before(self.grads[i], p, *first)
        arrays = (*state, u) if self.trust else state
        self.update(p, g, *arrays, *own)

    def sum_of_squares(self, double scale):
        """Return the sum of the squares of scale times all gradients of the step under way.

        They are checked first. It is summed in an order that depends on the shapes and layouts of
        the parameters alone.
        """
        cdef Py_ssize_t tile
        cdef double total = 0
        if self.loops is None:
            return self.reference_squares(scale)
        self.cut_tiles()
        self.squares_scale = scale
        self.for_each(sum_tiles, (self.tile_count + BLOCK - 1) // BLOCK)
        for tile in range(self.tile_count):
            total += self.tile_sums[tile]
        return total

    cdef reference_squares(self, double scale):
        parts = []
        self.bind()
        with Loops(self.flush):
            for i in range(self.count):
                if self.tensors[i].stepped:
                    parts += sum_of_squares(self.grads[i], self.params[i], scale)
        return in_order(parts)

    cdef cut_tiles(self):
        """Make the table of tiles, unless it is there."""
        cdef Py_ssize_t i, start, tile = 0
        if self.tile_sums_of_p:
            return
        self.tile_count = 0
        for i in range(self.count):
            self.tile_count += (self.tensors[i].size + SQUARES_TILE - 1) // SQUARES_TILE
        self.tile_tensor = <Py_ssize_t*> PyMem_Calloc(self.tile_count + 1, sizeof(Py_ssize_t))
        self.tile_start = <Py_ssize_t*> PyMem_Calloc(self.tile_count + 1, sizeof(Py_ssize_t))
        self.tile_sums = <double*> PyMem_Calloc(self.tile_count + 1, sizeof(double))
        if not self.tile_tensor or not self.tile_start or not self.tile_sums:
            raise MemoryError
        self.tile_sums_of_p = <double*> PyMem_Calloc(self.tile_count + 1, sizeof(double))
        if not self.tile_sums_of_p:
            raise MemoryError
        for i in range(self.count):
            for start in range(0, self.tensors[i].size, SQUARES_TILE):
                self.tile_tensor[tile] = i
                self.tile_start[tile] = start
                tile += 1

    cdef void sum_tile(self, Py_ssize_t tile) noexcept nogil:
        cdef Tensor* tensor = &self.tensors[self.tile_tensor[tile]]
        if not tensor.stepped:
            self.tile_sums[tile] = 0
        elif tensor.itemsize == sizeof(float):
            self.tile_sums[tile] = sum_squares(
                <f32> tensor.g, tensor, self.tile_start[tile], self.squares_scale
            )
        else:
            self.tile_sums[tile] = sum_squares(
                <f64> tensor.g, tensor, self.tile_start[tile], self.squares_scale
            )

    def first_nonfinite(self):
        """Return the name of the first gradient of the step under way with a NaN or infinity."""
        for i in range(self.count):
            if self.tensors[i].stepped and not np.isfinite(self.grads[i]).all():
                return self.labels[i][1]
        return None

    cdef for_each(self, task_t task, Py_ssize_t count):
        """Run task(self, k) for each k below count, on as many threads as the step is worth."""
        cdef int threads = threads_for(self.traffic)
        self.bind()
        run(task, <void*> self, count, threads, self.traffic, self.flush)

    cdef void run_task(self, Py_ssize_t task) noexcept nogil:
        cdef Py_ssize_t i = self.first_tensor[task]
        cdef Py_ssize_t start = self.first_element[task]
        cdef Py_ssize_t n, left = min(<Py_ssize_t> TASK, self.total - task * TASK)
        cdef Tensor* tensor
        while left > 0:
            tensor = &self.tensors[i]
            n = min(tensor.size - start, left)
            if tensor.row >= 0 and n > 0:
                if tensor.itemsize == sizeof(float):
                    run_range(<f32> &self.scalars32[tensor.row * SCALARS], tensor, start, n)
                else:
                    run_range(<f64> &self.scalars64[tensor.row * SCALARS], tensor, start, n)
            left -= n
            start = 0
            i += 1


cdef class Loops:
    """What NumPy's loops run in: without warnings, and in the mode of the compiled loops."""

    cdef object warnings
    cdef bint flush
    cdef fo_mode mode

    def __init__(self, bint flush):
        self.flush = flush
        self.warnings = np.errstate(all="ignore")

    def __enter__(self):
        self.warnings.__enter__()
        self.mode = fo_get_mode()
        fo_set_mode(flushing(self.mode, self.flush))

    def __exit__(self, *error):
        fo_set_mode(self.mode)
        self.warnings.__exit__(*error)


cdef list typed(scalars, dtype):
    """Return some numbers as scalars of a dtype, rounded as C does it, without a warning."""
    if dtype.itemsize == sizeof(float):
        return [np.float32(<float> <double> x) for x in scalars]
    return [np.float64(x) for x in scalars]


cdef double in_order(list parts):
    """Return the sum of some numbers, added up one after the other."""
    cdef double total = 0
    for part in parts:
        total += part
    return total


cdef class ShownEma:
    """Lets the parameters of an optimizer hold their averages inside of a ``with``.

    It enters and leaves without an instruction of Python, before which an interrupt might raise.
    """

    cdef object optimizer
    cdef Plan plan

    def __init__(self, optimizer):
        self.optimizer = optimizer

    def __enter__(self):
        self.optimizer._check_ema()
        cdef Plan plan = self.optimizer._plan
        plan.enter()
        try:
            plan.swap_ema()
        except BaseException:
            plan.leave()
            raise
        self.plan = plan

    def __exit__(self, *_):
        if self.plan is not None:
            try:
                self.plan.swap_ema()
            finally:
                self.plan.leave()
                self.plan = None


cdef void run_task(void* plan, Py_ssize_t task) noexcept nogil:
    (<Plan> plan).run_task(task)


cdef void sum_tiles(void* plan, Py_ssize_t block) noexcept nogil:
    cdef Py_ssize_t tile
    for tile in range(block * BLOCK, min((<Plan> plan).tile_count, (block + 1) * BLOCK)):
        (<Plan> plan).sum_tile(tile)


cdef void sum_directions(void* plan, Py_ssize_t block) noexcept nogil:
    cdef Py_ssize_t tile
    for tile in range(block * BLOCK, min((<Plan> plan).tile_count, (block + 1) * BLOCK)):
        (<Plan> plan).sum_direction(tile)


cdef inline void run_range(
    real row, Tensor* tensor, Py_ssize_t start, Py_ssize_t n
) noexcept nogil:
    """Step n elements of one array, a tile at a time where there is more to do than the rule."""
    if not tensor.stepped:
        average(row, tensor, start, n)
        return
    cdef bint more = (
        tensor.data[EMA] != NULL or tensor.mask != NULL
        or row[BEFORE] > -INFINITY or row[BEFORE + 1] < INFINITY
    )
    if more or tensor.gathered or tensor.zeroing:
        run_tiles(row, tensor, start, n, more)
    else:
        call(row, tensor, start, n, <real> tensor.g + start, <real> NULL)


cdef void run_tiles(
    real row, Tensor* tensor, Py_ssize_t start, Py_ssize_t n, bint more
) noexcept nogil:
    cdef double[TILE] tile
    cdef real g
    cdef Py_ssize_t end = start + n
    while start < end:
        n = min(<Py_ssize_t> TILE, end - start)
        if tensor.gathered:
            g = <real> &tile[0]
            gather(g, tensor.walk, tensor.g, start, n, tensor.zeroing)
        else:
            g = <real> tensor.g + start
        call(row, tensor, start, n, g, <real> NULL)
        if tensor.zeroing and not tensor.gathered:
            memset(g, 0, n * sizeof(g[0]))
        if more:
            finish(row + BEFORE, tensor, start, n, <real> tensor.data[0] + start)
        start += n


cdef void average(real row, Tensor* tensor, Py_ssize_t start, Py_ssize_t n) noexcept nogil:
    """Let the average follow n elements of a parameter without a gradient, which stays as it is."""
    cdef double[TILE] tile
    cdef real p = <real> &tile[0]
    cdef Py_ssize_t end = start + n
    while start < end:
        n = min(<Py_ssize_t> TILE, end - start)
        memcpy(p, <real> tensor.data[0] + start, n * sizeof(p[0]))
        finish(row + BEFORE, tensor, start, n, p)
        start += n


cdef inline void call(
    real row, Tensor* tensor, Py_ssize_t start, Py_ssize_t n, real g, real u
) noexcept nogil:
    """Run the rule's loop; u, unless NULL, is where it writes the direction of the step."""
    cdef real p = <real> tensor.data[0] + start
    cdef real s0 = state_at(tensor, 1, start, u)
    cdef real s1 = state_at(tensor, 2, start, u)
    cdef real s2 = state_at(tensor, 3, start, u)
    if real is f32:
        (<kernel32> tensor.kernel)(n, p, g, s0, s1, s2, row, row + BEFORE + AFTER)
    else:
        (<kernel64> tensor.kernel)(n, p, g, s0, s1, s2, row, row + BEFORE + AFTER)


cdef inline real state_at(Tensor* tensor, int k, Py_ssize_t start, real u) noexcept nogil:
    if tensor.data[k]:
        return <real> tensor.data[k] + start
    return u if k == tensor.direction else NULL


cdef inline void finish(
    real row, Tensor* tensor, Py_ssize_t start, Py_ssize_t n, real p
) noexcept nogil:
    cdef real ema = <real> tensor.data[EMA] + start if tensor.data[EMA] else NULL
    cdef const unsigned char* mask = tensor.mask + start if tensor.mask else NULL
    if real is f32:
        (<after32> tensor.after)(n, p, ema, mask, row)
    else:
        (<after64> tensor.after)(n, p, ema, mask, row)


cdef double sum_squares(real g, Tensor* tensor, Py_ssize_t start, double scale) noexcept nogil:
    """Sum the squares of one tile of a gradient."""
    cdef double[SQUARES_TILE] tile
    cdef Py_ssize_t n = min(<Py_ssize_t> SQUARES_TILE, tensor.size - start)
    if tensor.gathered:
        g = <real> &tile[0]
        gather(g, tensor.walk, tensor.g, start, n, False)
    else:
        g = g + start
    if real is f32:
        return (<squares32> tensor.squares)(n, g, scale)
    else:
        return (<squares64> tensor.squares)(n, g, scale)


cdef double direction_squares(
    real row, Tensor* tensor, Py_ssize_t start, double* p_squares
) noexcept nogil:
    """Sum the squares of one tile of the direction of a step, and of the parameter."""
    cdef double[SQUARES_TILE] gathered, direction
    cdef Py_ssize_t n = min(<Py_ssize_t> SQUARES_TILE, tensor.size - start)
    cdef real p = <real> tensor.data[0] + start, u = <real> &direction[0]
    cdef real g = <real> tensor.g + start
    if tensor.gathered:
        g = <real> &gathered[0]
        gather(g, tensor.walk, tensor.g, start, n, False)
    call(row, tensor, start, n, g, u)
    if real is f32:
        p_squares[0] = (<squares32> tensor.squares)(n, p, 1)
        return (<squares32> tensor.squares)(n, u, 1)
    else:
        p_squares[0] = (<squares64> tensor.squares)(n, p, 1)
        return (<squares64> tensor.squares)(n, u, 1)


cdef void gather(
    real out, const Walk* walk, char* base, Py_ssize_t start, Py_ssize_t n, bint zeroing
) noexcept nogil:
    """Move n elements, from the start-th on in the parameter's memory order, into a tile.

    They stay where they were, too, unless zeros are to take their place.
    """
    cdef Py_ssize_t[AXES] index
    cdef Py_ssize_t i
    cdef int k
    for k in range(walk.axes - 1, -1, -1):
        index[k] = start % walk.shape[k]
        base += index[k] * walk.strides[k]
        start = start // walk.shape[k]
    for i in range(n):
        memcpy(&out[i], base, sizeof(out[0]))  # the source may be misaligned
        if zeroing:
            memset(base, 0, sizeof(out[0]))
        advance(walk, walk.axes, &index[0], &base)
