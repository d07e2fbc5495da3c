"""What a step is measured by: the memory limit, and rules written by hand in C.

These share nothing with the engine, so that they can judge it: neither its loops nor its threads.
Their own threads stay awake from one call to the next. The loops are in ``csrc/yardsticks.c``, the
threads in ``csrc/team.h``. Only one thread of a program may call them.
"""

from libc.math cimport sqrt
from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free

cimport numpy as cnp

from threading import Thread

import numpy as np

from fastoptim._engine.machine import cpu_supports

cnp.import_array()

cdef extern from "team.h":
    ctypedef void (*fo_part)(int i, int threads, void* work) noexcept nogil
    ctypedef struct fo_team:
        fo_part part
        int threads
        void* work
    enum: FO_SEATS
    void fo_serve(fo_team* team, int i) nogil
    bint fo_offer(fo_team* team, int i)
    void fo_take_back(fo_team* team, int i)
    void fo_gather(fo_team* team, int n)

cdef extern from "yardsticks.h":
    enum: FO_MOST_STREAMS
    ctypedef struct fo_streams:
        const uint64_t* read
        uint64_t* changed[FO_MOST_STREAMS]
        int count
    ctypedef struct fo_adam_scalars:
        float b1, a1, b2, a2, lr, r2, eps
    ctypedef struct fo_momentum_scalars:
        float mu, lr
    ctypedef struct fo_yardstick:
        const char* name
        void (*stream)(const fo_streams*, Py_ssize_t, Py_ssize_t) noexcept nogil
        uint64_t (*sum)(Py_ssize_t, const uint64_t*) noexcept nogil
        void (*adam)(
            Py_ssize_t, float*, const float*, float*, float*, const fo_adam_scalars*
        ) noexcept nogil
        void (*momentum)(
            Py_ssize_t, float*, const float*, float*, const fo_momentum_scalars*
        ) noexcept nogil
    const fo_yardstick* fo_yardsticks

cdef enum:
    LINE = 64  # bytes of a cache line, at which the shares of threads begin

cdef fo_team team


def levels():
    """Return the levels that were compiled and that this CPU runs, lowest first."""
    cdef int k = 0
    found = []
    while fo_yardsticks[k].name != NULL:
        found.append(fo_yardsticks[k].name.decode())
        k += 1
    return [name for name in found if cpu_supports(name)]


def serve(int i):
    """Do the parts that come for a seat of the team, until none comes any more."""
    with nogil:
        fo_serve(&team, i)


cdef on_threads(fo_part part, int threads, void* work):
    """Run part(0), part(1), ... on so many threads, of which this is the first.

    The GIL is kept: to let go of it takes longer than to share out the work.
    """
    cdef int i
    team.part, team.threads, team.work = part, threads, work
    for i in range(1, threads):
        if not fo_offer(&team, i):
            try:
                Thread(target=serve, args=(i,), daemon=True).start()
            except RuntimeError:  # the system has no more
                fo_take_back(&team, i)
                fo_gather(&team, i)
                raise
    part(0, threads, work)
    fo_gather(&team, threads)


cdef inline Py_ssize_t begin(int i, int threads, Py_ssize_t n) noexcept nogil:
    """Return where the share of the i-th thread begins, of n elements: at a line of the cache."""
    return n if i == threads else n // threads * i // LINE * LINE


def touched(Py_ssize_t n, dtype, offset=0):
    """Return n zeros in memory that is there already, so many bytes behind the start of a line."""
    size = n * np.dtype(dtype).itemsize
    block = np.empty(size + 2 * LINE, np.uint8)
    block[...] = 0
    start = -block.ctypes.data % LINE + offset
    return block[start : start + size].view(dtype)


cdef const fo_yardstick* loops_of(str level) except NULL:
    """Return the loops of a level."""
    if level not in levels():
        raise ValueError(f"level: expected one of {', '.join(levels())}, found {level}")
    cdef const fo_yardstick* loops = fo_yardsticks
    while loops.name.decode() != level:
        loops += 1
    return loops


cdef int checked(int threads) except 0:
    """Return the number of threads, if the team has so many seats."""
    if not 1 <= threads <= FO_SEATS:
        raise ValueError(f"threads: expected 1 to {FO_SEATS}, found {threads}")
    return threads


cdef struct Streams:
    const fo_yardstick* loops
    fo_streams of
    Py_ssize_t words


cdef class Stream:
    """A pass that adds the words of one array to those of others: hardly any arithmetic.

    Parameters
    ----------
    g : array
        What is read.
    changed : list of array
        What is read and written, one array at the least, of as many bytes as g.
    level : str
        One of `levels`.
    threads : int
        How many threads share the pass.
    """

    cdef Streams work
    cdef int threads
    cdef object arrays

    def __init__(self, g, list changed, str level, int threads):
        if not 1 <= len(changed) <= FO_MOST_STREAMS:
            raise ValueError(f"changed: expected 1 to {FO_MOST_STREAMS} arrays")
        if any(a.nbytes != g.nbytes or not a.flags.c_contiguous for a in (g, *changed)):
            raise ValueError("expected contiguous arrays of as many bytes")
        self.threads, self.arrays = checked(threads), (g, changed)
        self.work.loops, self.work.words = loops_of(level), g.nbytes // 8
        self.work.of.read = <const uint64_t*> cnp.PyArray_DATA(g)
        self.work.of.count = len(changed)
        for k, array in enumerate(changed):
            self.work.of.changed[k] = <uint64_t*> cnp.PyArray_DATA(array)

    def step(self):
        """Take one pass."""
        on_threads(stream_share, self.threads, &self.work)


cdef void stream_share(int i, int threads, void* work) noexcept nogil:
    cdef const Streams* w = <const Streams*> work
    w.loops.stream(&w.of, begin(i, threads, w.words), begin(i + 1, threads, w.words))


cdef struct RowStreams:
    const fo_yardstick* loops
    fo_streams of  # from the first row on
    const Py_ssize_t* numbers
    Py_ssize_t count
    Py_ssize_t words  # of a row


cdef class RowStream:
    """A pass that adds the words of some rows to rows of other arrays, wherever these are.

    Parameters
    ----------
    values : array
        The rows that are read, one behind the other.
    numbers : array of intp
        The rows that are read and written, of each of the others.
    changed : list of array
        These others. A row has whole words of 8 bytes.
    level, threads : str, int
        As in `Stream`.
    """

    cdef RowStreams work
    cdef int threads
    cdef object arrays

    def __init__(self, values, numbers, list changed, str level, int threads):
        nbytes = changed[0].strides[0]
        numbers = np.ascontiguousarray(numbers, np.intp)
        if not 1 <= len(changed) <= FO_MOST_STREAMS or nbytes % 8 or len(values) != len(numbers):
            raise ValueError(f"expected 1 to {FO_MOST_STREAMS} arrays, and rows of whole words")
        if any(a.strides[0] != nbytes or not a.flags.c_contiguous for a in (values, *changed)):
            raise ValueError("expected contiguous arrays with rows of as many bytes")
        if len(numbers) and not 0 <= numbers.min() <= numbers.max() < min(map(len, changed)):
            raise ValueError("numbers: expected those of rows that there are")
        self.threads, self.arrays = checked(threads), (values, numbers, changed)
        self.work.loops, self.work.words = loops_of(level), nbytes // 8
        self.work.numbers = <const Py_ssize_t*> cnp.PyArray_DATA(numbers)
        self.work.count = len(numbers)
        self.work.of.read = <const uint64_t*> cnp.PyArray_DATA(values)
        self.work.of.count = len(changed)
        for k, array in enumerate(changed):
            self.work.of.changed[k] = <uint64_t*> cnp.PyArray_DATA(array)

    def step(self):
        """Take one pass."""
        on_threads(row_share, self.threads, &self.work)


cdef void row_share(int i, int threads, void* work) noexcept nogil:
    cdef const RowStreams* w = <const RowStreams*> work
    cdef fo_streams row = w.of
    cdef Py_ssize_t j, end = w.count * (i + 1) // threads
    cdef int k
    for j in range(w.count * i // threads, end):
        row.read = w.of.read + j * w.words
        for k in range(row.count):
            row.changed[k] = w.of.changed[k] + w.numbers[j] * w.words
        w.loops.stream(&row, 0, w.words)


cdef struct Sums:
    const fo_yardstick* loops
    const uint64_t* words
    Py_ssize_t count
    uint64_t[FO_SEATS][8] totals  # of each thread, on a line of the cache of its own


cdef class Read:
    """A pass that only reads an array.

    Parameters
    ----------
    g : array
        What is read.
    level, threads : str, int
        As in `Stream`.
    """

    cdef Sums work
    cdef int threads
    cdef object array

    def __init__(self, g, str level, int threads):
        if not g.flags.c_contiguous:
            raise ValueError("g: expected a contiguous array")
        self.threads, self.array = checked(threads), g
        self.work.loops, self.work.count = loops_of(level), g.nbytes // 8
        self.work.words = <const uint64_t*> cnp.PyArray_DATA(g)

    def step(self):
        """Take one pass; return the sum of the words, which takes no time beside the reading."""
        cdef uint64_t total = 0
        on_threads(sum_share, self.threads, &self.work)
        for i in range(self.threads):
            total += self.work.totals[i][0]
        return total


cdef void sum_share(int i, int threads, void* work) noexcept nogil:
    cdef Sums* w = <Sums*> work
    cdef Py_ssize_t start = begin(i, threads, w.count)
    w.totals[i][0] = w.loops.sum(begin(i + 1, threads, w.count) - start, w.words + start)


cdef struct Tensor:
    Py_ssize_t n
    Py_ssize_t head  # elements before the first that begins a line of the cache
    float* p
    float* g
    float* v
    float* m  # NULL without


cdef struct Tensors:
    const fo_yardstick* loops
    Tensor* tensors
    Py_ssize_t count
    fo_adam_scalars adam
    fo_momentum_scalars momentum


cdef Py_ssize_t place(array):
    """Return how many bytes behind the start of a line of the cache an array begins."""
    return array.ctypes.data % LINE


cdef class ByHand:
    """A rule of float32 in C, as somebody writes it who wants it fast and has no other use for it.

    Parameters
    ----------
    params, grads : list of array
        Contiguous arrays of float32.
    states : int
        How many arrays of state, each of zeros, go with each parameter.
    level, threads : str, int
        As in `Stream`.
    """

    cdef Tensors work
    cdef int threads
    cdef object arrays

    def __init__(self, list params, list grads, int states, str level, int threads):
        self.threads = checked(threads)
        self.work.loops, self.work.count = loops_of(level), len(params)
        self.work.tensors = <Tensor*> calloc(len(params) + 1, sizeof(Tensor))
        if not self.work.tensors:
            raise MemoryError
        self.arrays = [
            self.add(i, p, g, [touched(p.size, "f4", place(p)) for _ in range(states)])
            for i, (p, g) in enumerate(zip(params, grads, strict=True))
        ]

    def __dealloc__(self):
        free(self.work.tensors)

    cdef tuple add(self, Py_ssize_t i, p, g, list state):
        """Note where the arrays of a parameter are, and return them all."""
        cdef Tensor* tensor = &self.work.tensors[i]
        for array in (p, g):
            if array.dtype != np.float32 or not array.flags.c_contiguous or array.size != p.size:
                raise ValueError("expected contiguous arrays of float32, gradients as parameters")
        tensor.n, tensor.head = p.size, min((LINE - place(p)) % LINE // 4, p.size)
        tensor.p, tensor.g = <float*> cnp.PyArray_DATA(p), <float*> cnp.PyArray_DATA(g)
        tensor.v = <float*> cnp.PyArray_DATA(state[0])
        if len(state) > 1:
            tensor.m = <float*> cnp.PyArray_DATA(state[1])
        return p, g, state


cdef class Adam(ByHand):
    """Adam; the letters are those of `fastoptim.reference`."""

    cdef double b1, b2, lr
    cdef int t

    def __init__(self, params, grads, level, threads, double lr, betas, float eps):
        ByHand.__init__(self, params, grads, 2, level, threads)
        self.b1, self.b2 = betas
        self.lr, self.t = lr, 0
        self.work.adam = fo_adam_scalars(self.b1, 1 - self.b1, self.b2, 1 - self.b2, 0, 0, eps)

    def step(self):
        """Take one step."""
        self.t += 1
        self.work.adam.lr = self.lr / (1 - self.b1**self.t)
        self.work.adam.r2 = 1 / sqrt(1 - self.b2**self.t)
        on_threads(adam_share, self.threads, &self.work)


cdef void adam_share(int i, int threads, void* work) noexcept nogil:
    cdef const Tensors* w = <const Tensors*> work
    cdef const Tensor* x
    cdef Py_ssize_t k, start, n
    for k in range(w.count):
        x = &w.tensors[k]
        if i == 0:
            fo_yardsticks.adam(x.head, x.p, x.g, x.m, x.v, &w.adam)
        start = x.head + begin(i, threads, x.n - x.head)
        n = x.head + begin(i + 1, threads, x.n - x.head) - start
        w.loops.adam(n, x.p + start, x.g + start, x.m + start, x.v + start, &w.adam)


cdef class Momentum(ByHand):
    """SGD with momentum; the letters are those of `fastoptim.reference`."""

    def __init__(self, params, grads, level, threads, double lr, double momentum):
        ByHand.__init__(self, params, grads, 1, level, threads)
        self.work.momentum = fo_momentum_scalars(momentum, lr)

    def step(self):
        """Take one step."""
        on_threads(momentum_share, self.threads, &self.work)


cdef void momentum_share(int i, int threads, void* work) noexcept nogil:
    cdef const Tensors* w = <const Tensors*> work
    cdef const Tensor* x
    cdef Py_ssize_t k, start, n
    for k in range(w.count):
        x = &w.tensors[k]
        if i == 0:
            fo_yardsticks.momentum(x.head, x.p, x.g, x.v, &w.momentum)
        start = x.head + begin(i, threads, x.n - x.head)
        n = x.head + begin(i + 1, threads, x.n - x.head) - start
        w.loops.momentum(n, x.p + start, x.g + start, x.v + start, &w.momentum)
