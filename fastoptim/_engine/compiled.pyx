"""The compiled backend: passes that cut all arrays into tasks for several threads.

All arrays are one flat space of elements, and a task is a fixed range of it, so that threads share
out many small arrays as evenly as a large one. Every element is computed by the same expression
wherever the borders of tasks and tiles fall: the result depends neither on the number of threads
nor on who ran which task. Sums are of fixed tiles, added up in their order.

This room knows a rule as addresses of loops, and a line of scalars as what these loops read.
"""

from cpython.mem cimport PyMem_Calloc, PyMem_Free, PyMem_Malloc
from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.math cimport INFINITY
from libc.stdint cimport uintptr_t
from libc.string cimport memcpy, memset

from fastoptim._engine.formats cimport Stored
from fastoptim._engine.layouts cimport (
    BLOCK_BYTES, LINES, Block, block_at, block_behind, gather_block, offsets, prefetch_block,
    scatter_block
)
from fastoptim._engine.machine cimport is_flushing
from fastoptim._engine.memory cimport Tensors
from fastoptim._engine.passes cimport CLIP, NORM, PASSES, SQUARES_TILE, TRUST_RATIO, UPDATE
from fastoptim._engine.rows cimport ask_for_row, put_back, sum_row, take_in
from fastoptim._engine.scalars cimport (
    AFTER, BEFORE, RARE, SCALARS, SCALE, WEIGHT_DECAY, ScalarTable
)
from fastoptim._engine.staging cimport (
    ARRAYS, EMA, STATE, TILE, Gathered, Tensor, Touched, array, gathered, load, store
)
from fastoptim._engine.threads cimport allowed_threads, run, task_t
from fastoptim._engine.tuning cimport GATHERED, MOST_LEVELS, Tuned, Way
from fastoptim._loop cimport (
    after32, after64, before32, before64, clip32, clip64, f32, f64, open32, open64, rule32, rule64,
    squares32, squares64
)

import numpy as np

from fastoptim._engine.passes import PASS_NAMES

cdef extern from "rooms.h":
    int fo_enter(fo_taken* taken, int n) nogil
    void fo_leave(fo_taken* taken, int k) nogil

cdef enum:
    TASK = 8192  # elements of the flat space that a thread takes at a time
    BLOCK = 16  # tiles of that size that a thread takes at a time
    # Doubles of a tile for a gradient that is gathered in order: few where rows are copied one by
    # one, and many rows where they are transposed.
    COPIED = 1024
    TRANSPOSED = 4096
    WIDE = 64  # elements of a row from which on it is computed on where it is
    LANES = 16  # running sums of a tile, as in _loops.pxi

tile_size, task_size = TILE, TASK  # for tests, which look at the edges of tiles and tasks


cdef class RuleLoops:
    """The loops of one rule, or of several in an order, at each level that steps may use.

    Parameters
    ----------
    rule : str or None
        The name of the rule's loop, or those of several; None has but the stages.
    levels : dict
        By the name of a level, lowest first, a list with a dict for each rule: by the dtype that
        they compute in, the `fastoptim._levels.Loops`.

    Raises
    ------
    ValueError
        If there are more levels than the engine has room for.
    """

    def __cinit__(self, rule, dict levels):
        self.rule, self.levels, self.names = rule, levels, tuple(levels)
        if len(levels) > MOST_LEVELS:
            raise ValueError(f"levels: expected at most {MOST_LEVELS}, found {self.names}")
        self.count = len(levels[self.names[0]])
        if any(len(rules) != self.count for rules in levels.values()):
            raise ValueError(f"levels: expected as many rules at each, found {levels}")
        self.table = <Loops*> PyMem_Calloc(2 * self.count * len(levels), sizeof(Loops))
        if not self.table:
            raise MemoryError
        self.fill(levels)

    def __dealloc__(self):
        PyMem_Free(self.table)

    cdef fill(self, dict levels):
        cdef Py_ssize_t at = 0
        for rules in levels.values():
            for loops in rules:
                for real, found in loops.items():
                    self.table[at + (real == np.float32)] = Loops(
                        address(found.rule), found.is_open, address(found.before),
                        address(found.after), address(found.clip), address(found.squares),
                    )
                at += 2


cdef class CompiledPasses(Passes):
    """Passes with compiled loops.

    Parameters
    ----------
    memory : Tensors
        What they go over.
    loops : RuleLoops
        The loops of the rule.
    """

    def __cinit__(self, Tensors memory, RuleLoops loops not None):
        self.memory, self.loops, self.tuned = memory, loops, [None] * PASSES
        self.work.tensors = memory.tensors

    def __dealloc__(self):
        PyMem_Free(self.tasks)
        PyMem_Free(self.tiles)
        PyMem_Free(self.cuts)
        PyMem_Free(self.work.room)
        PyMem_Free(self.work.taken)

    cdef go(self, int which, task_t task, Py_ssize_t traffic, bint flush=False, bint in_order=True):
        """Run all tasks of a pass, in one go or wave after wave.

        But for the update, each pass goes over an array `in_order` of memory.
        """
        cdef Py_ssize_t wave
        cdef double share
        if self.waves is None or not self.goes_in_waves(PASS_NAMES[which]):
            if self.waves is not None:
                self.select(&self.all, which)
            self.memory.bind(in_order)
            self.run_tasks(which, task, traffic, flush, in_order)
            return
        if not self.cuts:
            self.cut_waves()
        self.memory.bind(True)
        for wave in range(len(self.pieces)):
            self.begin(wave, PASS_NAMES[which])
            self.select(&self.cuts[wave], which)
            self.torn = self.torn or which == UPDATE
            share = <double> self.work.total / max(self.all.total, 1)
            self.run_tasks(which, task, <Py_ssize_t> (share * traffic), flush, True)
            self.end(wave, PASS_NAMES[which])

    cdef void select(self, const Cut* cut, int which) noexcept:
        """Let the tasks of a pass be those of one wave, or (`all`) of no wave."""
        cdef Py_ssize_t columns = 2 if which == TRUST_RATIO else 1
        self.work.total, self.work.task_count = cut.total, cut.task_count
        self.work.tasks = self.tasks + cut.task
        self.work.tile_count, self.work.tiles = cut.tile_count, self.tiles + cut.tile
        self.work.sums = self.tile_sums + columns * cut.tile

    cdef inline run_tasks(
        self, int which, task_t task, Py_ssize_t traffic, bint flush, bint in_order
    ):
        """Run the tasks that are selected, at the level and on the threads that are best for it."""
        cdef Tuned tuned = self.tuned[which]
        cdef Way way
        cdef Py_ssize_t count = self.work.task_count
        if which == NORM or which == TRUST_RATIO:
            count = (self.work.tile_count + BLOCK - 1) // BLOCK
        if tuned is None:
            rule = self.loops.rule
            name = (f"{rule} step", "norm", f"{rule} trust ratio", "clip")[which]
            tuned = self.tuned[which] = Tuned(name, self.loops.names)
        way = tuned.begin(traffic, self.memory.kind, which == UPDATE and self.memory.is_fresh())
        self.work.loops = self.loops.table + 2 * self.loops.count * way.level
        if self.memory.kind & GATHERED and not in_order:
            self.make_rooms(way.threads)
        tuned.end(run(task, &self.work, count, way.threads, traffic, flush))

    cdef update(self, ScalarTable table, bint flush):
        self.torn = False
        if self.waves is None and (not self.tasks or self.tasks_by_rows or self.memory.by_rows):
            self.cut_tasks()
        self.work.doubles, self.work.singles = table.doubles, table.singles
        self.go(UPDATE, update_task, self.memory.traffic, flush, self.waves is not None)

    cdef sum_gradients(self, double scale, bint flush):
        if not self.tiles or self.tiles_by_rows or self.memory.by_rows:
            self.cut_tiles()
        self.work.scale = scale
        self.go(NORM, sum_tiles, self.memory.traffic, flush)

    cdef sum_directions(self, ScalarTable table, bint flush):
        if not self.tiles or self.tiles_by_rows or self.memory.by_rows:
            self.cut_tiles()
        self.work.doubles, self.work.singles = table.doubles, table.singles
        self.go(TRUST_RATIO, sum_direction_tiles, self.memory.traffic, flush)

    cdef clip(self, double factor, double limit):
        """Multiply all gradients by a factor, then clip each element: in place, and all or none.

        Both numbers are rounded to the type of each array, as NumPy rounds Python's. The arrays
        have been found fit to be written, so that nothing can fail once the first has changed, and
        no interrupt comes in between.
        """
        cdef double[2] doubles = [factor, limit]
        cdef float[2] singles = [<float> factor, <float> limit]
        if not self.tasks:
            self.cut_tasks()
        self.work.doubles, self.work.singles = doubles, singles
        # what is read is written, too
        self.go(CLIP, clip_task, 2 * self.memory.traffic)

    cdef make_rooms(self, int count):
        """Make sure that there is a room for each thread, also if later steps may have more."""
        if count <= self.work.rooms:
            return
        count = max(count, allowed_threads())
        PyMem_Free(self.work.room)
        PyMem_Free(self.work.taken)
        self.work.rooms = 0
        self.work.room = <char*> PyMem_Malloc(count * BLOCK_BYTES)
        self.work.taken = <fo_taken*> PyMem_Calloc(count, sizeof(fo_taken))
        if not self.work.room or not self.work.taken:
            raise MemoryError
        self.work.rooms = count

    cdef cut_tasks(self):
        """Cut the flat space of all elements into tasks."""
        cdef Py_ssize_t i, size, task = 0, start = 0, total = 0
        for i in range(self.memory.count):
            total += self.memory.tensors[i].extent
        self.work.total, self.work.task_count = total, (total + TASK - 1) // TASK
        if not self.tasks or self.work.task_count > self.task_capacity:
            PyMem_Free(self.tasks)
            self.task_capacity = self.work.task_count
            self.tasks = <Task*> PyMem_Calloc(self.task_capacity + 1, sizeof(Task))
            if not self.tasks:
                raise MemoryError
        self.work.tasks, self.tasks_by_rows = self.tasks, self.memory.by_rows
        for i in range(self.memory.count):
            size = self.memory.tensors[i].extent
            while task * TASK < start + size:
                self.tasks[task] = Task(i, task * TASK - start)
                task += 1
            start += size

    cdef cut_tiles(self):
        """Cut each array into tiles."""
        cdef const Tensor* tensor
        cdef Py_ssize_t i, start, tile = 0
        self.count_tiles()
        if not self.tiles or self.tile_count > self.table_capacity:
            PyMem_Free(self.tiles)
            self.table_capacity = self.tile_capacity
            self.tiles = <Tile*> PyMem_Malloc((self.table_capacity + 1) * sizeof(Tile))
            if not self.tiles:
                raise MemoryError
        self.work.tile_count = self.all.tile_count = self.tile_count
        self.work.tiles, self.work.sums = self.tiles, self.tile_sums
        for i in range(self.memory.count):
            tensor = &self.memory.tensors[i]
            if tensor.in_rows:
                tile = self.cut_rows(i, tile)
                continue
            start = 0
            while start < tensor.size:
                self.tiles[tile] = Tile(i, start, 0)
                tile += 1
                start += SQUARES_TILE

    cdef Py_ssize_t cut_rows(self, Py_ssize_t i, Py_ssize_t tile) noexcept:
        """Cut the rows that a gradient has into tiles, from this number on; return the next one."""
        cdef const Tensor* tensor = &self.memory.tensors[i]
        cdef Py_ssize_t j, start = 0, end, width = tensor.touched.width
        for j in range(tensor.touched.count if width > 0 else 0):
            end = (tensor.touched.numbers[j] + 1) * width
            start = max(start, (end - width) // SQUARES_TILE * SQUARES_TILE)
            while start < end:
                self.tiles[tile] = Tile(i, start, j)
                tile += 1
                start += SQUARES_TILE
        return tile

    cdef cut_waves(self):
        """Cut the elements of each wave into tasks, and note which tiles it has."""
        cdef Py_ssize_t i, start, stop, wave, at, task = 0, tile = 0, most = 0
        cdef Cut* cut
        self.cuts = <Cut*> PyMem_Calloc(len(self.pieces) + 1, sizeof(Cut))
        if not self.cuts:
            raise MemoryError
        for wave, pieces in enumerate(self.pieces):
            cut = &self.cuts[wave]
            cut.task, cut.tile = most, tile
            for _, start, stop in pieces:
                cut.total += stop - start
                cut.tile_count += (stop - start + SQUARES_TILE - 1) // SQUARES_TILE
            cut.task_count = (cut.total + TASK - 1) // TASK
            self.all.total += cut.total
            most += cut.task_count
            tile += cut.tile_count
        PyMem_Free(self.tasks)
        self.tasks = <Task*> PyMem_Calloc(most + 1, sizeof(Task))
        if not self.tasks:
            raise MemoryError
        for wave, pieces in enumerate(self.pieces):
            task = at = 0
            for i, start, stop in pieces:
                while task * TASK < at + stop - start:
                    self.tasks[self.cuts[wave].task + task] = Task(i, start + task * TASK - at)
                    task += 1
                at += stop - start


cdef void* address(loop) except? NULL:
    """Return the address of a loop, which is in a capsule or a number; NULL where there is none."""
    if isinstance(loop, int):
        return <void*> <uintptr_t> loop
    return NULL if loop is None else PyCapsule_GetPointer(loop, "fastoptim.loop")


cdef void update_task(void* work, Py_ssize_t task) noexcept nogil:
    cdef const Work* w = <const Work*> work
    cdef Py_ssize_t i = w.tasks[task].tensor, start = w.tasks[task].start
    cdef Py_ssize_t n, left = min(<Py_ssize_t> TASK, w.total - task * TASK)
    cdef const Tensor* tensor
    while left > 0:
        tensor = &w.tensors[i]
        n = min(tensor.extent - start, left)
        if tensor.line >= 0 and n > 0:
            if tensor.single:
                update_range(<f32> &w.singles[tensor.line * SCALARS], w, tensor, start, n)
            else:
                update_range(<f64> &w.doubles[tensor.line * SCALARS], w, tensor, start, n)
        left -= n
        start = 0
        i += 1


cdef inline void update_range(
    array line, const Work* w, const Tensor* tensor, Py_ssize_t start, Py_ssize_t n
) noexcept nogil:
    """Step n elements of one parameter, or only move its average if it has no gradient.

    All n are one call of the rule's loop where it can compute on the arrays as they are and nothing
    is to be done behind it. Otherwise the elements go tile by tile.
    """
    cdef const Loops* loops = &w.loops[tensor.loops]
    cdef bint bounded, more
    cdef char* g
    if not tensor.stepped:
        average(line, loops, tensor, start, n)
        return
    bounded = line[BEFORE] > -INFINITY or line[BEFORE + 1] < INFINITY
    if tensor.gathered or tensor.staged or bounded:
        more = bounded or tensor.data[EMA] != NULL or tensor.mask != NULL
        if not tensor.gathered:
            g = tensor.g + start * tensor.stored.itemsize
            update_tiles(line, loops, tensor, start, n, g, tensor.stored, more)
        elif tensor.in_rows:
            update_touched(line, loops, tensor, start, n, more)
        elif tensor.route.in_order:
            update_in_order(line, loops, tensor, start, n, more)
        else:
            update_grid(line, w, tensor, start, n, more)
    else:
        if tensor.head > 0:
            if start == 0:
                call_in_place(line, loops, tensor, 0, tensor.head, <array> tensor.g)
            align(tensor, &start, &n)
        call_in_place(line, loops, tensor, start, n, <array> tensor.g + start)


cdef inline void align(const Tensor* tensor, Py_ssize_t* start, Py_ssize_t* n) noexcept nogil:
    """Move the borders of a range to where cache lines begin, but for the end of the array.

    A vector that lies across two lines is read and written in two parts: in cache, steps with
    vectors as long as a line took up to a third longer. State begins a line where its parameter
    does. The head of the array, before the first such border, goes with the first range.
    """
    cdef Py_ssize_t end = start[0] + n[0]
    start[0] = min(start[0] + tensor.head, tensor.size)
    n[0] = (min(end + tensor.head, tensor.size) if end < tensor.size else end) - start[0]


cdef inline void call_in_place(
    array line, const Loops* loops, const Tensor* tensor, Py_ssize_t start, Py_ssize_t n, array g
) noexcept nogil:
    """Run the rule's loop on n elements of arrays on which it can compute as they are."""
    call(
        line, loops, n,
        <array> tensor.data[0] + start,
        g,
        shifted(<array> tensor.data[1], start),
        shifted(<array> tensor.data[2], start),
        shifted(<array> tensor.data[3], start),
        shifted(<array> tensor.data[4], start),
    )


cdef void update_in_order(
    array line, const Loops* loops, const Tensor* tensor, Py_ssize_t start, Py_ssize_t n, bint more
) noexcept nogil:
    """Step n elements of a parameter whose gradient is gathered in the order of its memory."""
    cdef double[TRANSPOSED] tile
    cdef char* g = <char*> &tile[0]
    cdef Py_ssize_t end = start + n, most = TRANSPOSED if tensor.route.down else COPIED
    cdef Block block
    most = most * <Py_ssize_t> sizeof(double) // tensor.g_stored.itemsize
    while start < end:
        block = block_at(tensor.route, start + tensor.start, end - start, most)
        gather_block(g, tensor.route, tensor.g, &block, tensor.zeroing)
        n = block.rows * block.columns
        update_block(line, loops, tensor, start, n, g, more)
        start += n


cdef void update_grid(
    array line, const Work* w, const Tensor* tensor, Py_ssize_t start, Py_ssize_t n, bint more
) noexcept nogil:
    """Step the blocks of a grid that begin among n elements of a route."""
    cdef const Loops* loops = &w.loops[tensor.loops]
    cdef Py_ssize_t end = block_behind(tensor.route, start + n)
    cdef Block block, following
    cdef int room
    cdef char* g
    start = block_behind(tensor.route, start)
    if start >= end:
        return
    room = fo_enter(w.taken, w.rooms)
    g = w.room + room * <Py_ssize_t> BLOCK_BYTES
    while start < end:
        block = block_at(tensor.route, start, 0, 0)
        gather_block(g, tensor.route, tensor.g, &block, tensor.zeroing)
        start += block.rows * block.columns
        following.columns = 0
        if start < tensor.size:
            following = block_at(tensor.route, start, 0, 0)
        update_rows(line, loops, tensor, &block, &following, g, more)
    fo_leave(w.taken, room)


cdef void update_rows(
    array line, const Loops* loops, const Tensor* tensor, const Block* block,
    const Block* following, char* g, bint more,
) noexcept nogil:
    """Step the rows of a block, while the gradients of the following one come from memory."""
    cdef Py_ssize_t[LINES] places
    cdef Py_ssize_t k, n, column, itemsize = tensor.g_stored.itemsize
    cdef Py_ssize_t part = 0, parts = block.rows * ((block.columns + TILE - 1) // TILE)
    offsets(&places[0], &tensor.route.places, block.row, block.rows)
    for k in range(block.rows):
        column = 0
        while column < block.columns:
            n = min(<Py_ssize_t> TILE, block.columns - column)
            if following.columns > 0:
                prefetch_block(tensor.route, tensor.g, following, part, parts)
                part += 1
            update_block(
                line, loops, tensor, places[k] + block.column + column, n,
                g + k * block.pitch + column * itemsize, more,
            )
            column += n


cdef inline void update_block(
    array line, const Loops* loops, const Tensor* tensor, Py_ssize_t start, Py_ssize_t n, char* g,
    bint more,
) noexcept nogil:
    """Step n elements whose gradient was gathered."""
    if more or tensor.stored.load != NULL or tensor.g_stored.load != NULL:
        update_tiles(line, loops, tensor, start, n, g, tensor.g_stored, more)
    else:
        call_in_place(line, loops, tensor, start, n, <array> g)


cdef void update_tiles(
    array line, const Loops* loops, const Tensor* tensor, Py_ssize_t start, Py_ssize_t n,
    char* g_at, const Stored* g_stored, bint more,
) noexcept nogil:
    """Step n elements tile by tile, with their gradients one behind the other."""
    cdef double[TILE] g_tile
    cdef array g
    cdef Py_ssize_t end = start + n
    while start < end:
        n = min(<Py_ssize_t> TILE, end - start)
        g = load(<array> &g_tile[0], g_at, g_stored, 0, n)
        update_tile(line, loops, tensor, start, n, g, more)
        if tensor.zeroing and not tensor.gathered:
            memset(g_at, 0, n * g_stored.itemsize)
        start += n
        g_at += n * g_stored.itemsize


cdef inline void update_tile(
    array line, const Loops* loops, const Tensor* tensor, Py_ssize_t start, Py_ssize_t n, array g,
    bint more,
) noexcept nogil:
    """Step n elements, at most a tile, by the gradients that are at g."""
    cdef double[ARRAYS][TILE] tiles
    cdef array[ARRAYS] at
    cdef int k
    for k in range(ARRAYS):
        at[k] = load(<array> &tiles[k][0], tensor.data[k], tensor.stored, start, n)
    call(line, loops, n, at[0], g, at[1], at[2], at[3], at[4])
    if more:
        finish(line + BEFORE, loops, tensor.mask, start, n, at[0], at[EMA])
    for k in range(ARRAYS):
        store(at[k], tensor.data[k], tensor.stored, start, n)


cdef void update_touched(
    array line, const Loops* loops, const Tensor* tensor, Py_ssize_t start, Py_ssize_t n, bint more
) noexcept nogil:
    """Step n elements of the rows that a gradient has, counted from the first of these rows.

    Wide rows are computed on where they are. Of others several are copied into tiles, on which a
    loop runs once, and back.
    """
    cdef double[TILE] g_tile
    cdef array g = <array> &g_tile[0]
    cdef const Touched* touched = tensor.touched
    cdef Py_ssize_t width = touched.width, row = start // width, column = start % width
    cdef Py_ssize_t end = start + n
    while start < end:
        if width < WIDE:
            start += update_few_rows(line, loops, tensor, row, column, end - start, more)
            row, column = start // width, start % width
        else:
            n = min(min(width - column, end - start), <Py_ssize_t> TILE)
            sum_row(g, tensor, row, column, n)
            ask_for_row(tensor, row + touched.ahead, column, n)
            update_tile(
                line, loops, tensor, touched.numbers[row] * width + column, n, g, more
            )
            start += n
            column += n
            if column == width:
                row += 1
                column = 0


cdef Py_ssize_t update_few_rows(
    array line, const Loops* loops, const Tensor* tensor, Py_ssize_t row, Py_ssize_t column,
    Py_ssize_t n, bint more,
) noexcept nogil:
    """Step the first of n elements, as many as tiles have room for; return how many these were."""
    cdef double[TILE] g_tile
    cdef double[ARRAYS][TILE] tiles
    cdef unsigned char[TILE] mask_tile
    cdef array[ARRAYS] at
    cdef array g = <array> &g_tile[0]
    cdef const Touched* touched = tensor.touched
    cdef Py_ssize_t j = row, first = column, count = 0, width = touched.width, place, m
    cdef int k
    for k in range(ARRAYS):
        at[k] = <array> &tiles[k][0] if tensor.data[k] != NULL else NULL
    n = min(n, <Py_ssize_t> TILE)
    while count < n:
        m = min(width - column, n - count)
        place = touched.numbers[j] * width + column
        ask_for_row(tensor, j + touched.ahead, 0, width)
        sum_row(g + count, tensor, j, column, m)
        for k in range(ARRAYS):
            take_in(shifted(at[k], count), tensor.data[k], tensor.stored, place, m)
        if tensor.mask:
            memcpy(mask_tile + count, tensor.mask + place, m)
        count += m
        column = 0
        j += 1
    call(line, loops, n, at[0], g, at[1], at[2], at[3], at[4])
    if more:
        finish(line + BEFORE, loops, mask_tile if tensor.mask else NULL, 0, n, at[0], at[EMA])
    j, column, count = row, first, 0
    while count < n:
        m = min(width - column, n - count)
        place = touched.numbers[j] * width + column
        for k in range(ARRAYS):
            put_back(shifted(at[k], count), tensor.data[k], tensor.stored, place, m)
        count += m
        column = 0
        j += 1
    return n


cdef void average(
    array line, const Loops* loops, const Tensor* tensor, Py_ssize_t start, Py_ssize_t n
) noexcept nogil:
    """Move n elements of the average of a parameter that has no gradient.

    The parameter itself stays as it is: the stage after the rule, which writes it, gets a copy.
    """
    cdef double[TILE] p_tile, ema_tile
    cdef array p = <array> &p_tile[0], ema
    cdef Py_ssize_t end = start + n
    while start < end:
        n = min(<Py_ssize_t> TILE, end - start)
        if load(p, tensor.data[0], tensor.stored, start, n) != p:
            memcpy(p, <array> tensor.data[0] + start, n * sizeof(p[0]))
        ema = load(<array> &ema_tile[0], tensor.data[EMA], tensor.stored, start, n)
        finish(line + BEFORE, loops, tensor.mask, start, n, p, ema)
        store(ema, tensor.data[EMA], tensor.stored, start, n)
        start += n


cdef inline void call(
    array line, const Loops* loops, Py_ssize_t n, array p, array g, array s0, array s1, array s2,
    array s3,
) noexcept nogil:
    """Run the rule's loop on n elements."""
    if loops.is_open:
        call_open(line, loops, n, p, g, s0, s1, s2, s3)
    elif array is f32:
        (<rule32> loops.rule)(n, p, g, s0, s1, s2, s3, line, line + BEFORE + AFTER)
    else:
        (<rule64> loops.rule)(n, p, g, s0, s1, s2, s3, line, line + BEFORE + AFTER)


cdef void call_open(
    array line, const Loops* loops, Py_ssize_t n, array p, array g, array s0, array s1, array s2,
    array s3,
) noexcept nogil:
    """Run the loop of a user's own rule, behind the stage before the rule where that does anything.

    Then the gradient as the rule sees it is written tile by tile. Where denormals are zero, so are
    those of the gradient behind that stage, even if all that it does is to multiply by 1.
    """
    cdef double[TILE] tile
    cdef array seen = <array> &tile[0]
    cdef array[STATE] state
    cdef Py_ssize_t count, start = 0
    cdef bint plain = line[SCALE] == 1 and line[WEIGHT_DECAY] == 0 and line[RARE] == 0
    if plain and not is_flushing():
        state[0], state[1], state[2], state[3] = s0, s1, s2, s3
        call_open_loop(line, loops, n, p, g, state)
        return
    while start < n:
        count = min(<Py_ssize_t> TILE, n - start)
        if array is f32:
            (<before32> loops.before)(count, seen, g + start, p + start, line)
        else:
            (<before64> loops.before)(count, seen, g + start, p + start, line)
        state[0], state[1] = shifted(s0, start), shifted(s1, start)
        state[2], state[3] = shifted(s2, start), shifted(s3, start)
        call_open_loop(line, loops, count, p + start, seen, state)
        start += count


cdef inline void call_open_loop(
    array line, const Loops* loops, Py_ssize_t n, array p, array g, array* state
) noexcept nogil:
    if array is f32:
        (<open32> loops.rule)(n, p, g, state, line + BEFORE + AFTER)
    else:
        (<open64> loops.rule)(n, p, g, state, line + BEFORE + AFTER)


cdef inline array shifted(array data, Py_ssize_t start) noexcept nogil:
    """Return the address of the start-th element of an array, NULL if there is no array."""
    return data + start if data != NULL else NULL


cdef inline void finish(
    array line, const Loops* loops, const unsigned char* mask, Py_ssize_t start, Py_ssize_t n,
    array p, array ema,
) noexcept nogil:
    """Run the stage after the rule on n elements, whose mask begins at `start` of it."""
    if mask:
        mask += start
    if array is f32:
        (<after32> loops.after)(n, p, ema, mask, line)
    else:
        (<after64> loops.after)(n, p, ema, mask, line)


cdef inline double squares_of(
    array x, const Loops* loops, Py_ssize_t n, double scale
) noexcept nogil:
    if array is f32:
        return (<squares32> loops.squares)(n, x, scale)
    else:
        return (<squares64> loops.squares)(n, x, scale)


cdef void sum_tiles(void* work, Py_ssize_t block) noexcept nogil:
    cdef const Work* w = <const Work*> work
    cdef double* sums = w.sums
    cdef const Tensor* tensor
    cdef Gathered held
    cdef const Tile* tile
    cdef Py_ssize_t k, end = min(w.tile_count, (block + 1) * BLOCK)
    held.tensor = NULL
    for k in range(block * BLOCK, end):
        tile = &w.tiles[k]
        tensor = &w.tensors[tile.tensor]
        if not tensor.stepped:
            sums[k] = 0
        elif tensor.in_rows:
            if tensor.single:
                sums[k] = sum_touched(<f32> NULL, tensor, tile, w.scale)
            else:
                sums[k] = sum_touched(<f64> NULL, tensor, tile, w.scale)
        elif tensor.single:
            sums[k] = sum_gradient(<f32> NULL, w, tensor, tile.start, end - k, &held)
        else:
            sums[k] = sum_gradient(<f64> NULL, w, tensor, tile.start, end - k, &held)


cdef double sum_gradient(
    array _, const Work* w, const Tensor* tensor, Py_ssize_t start, Py_ssize_t tiles,
    Gathered* held,
) noexcept nogil:
    """Sum the squares of one tile of a gradient, of so many that one thread sums."""
    cdef double[SQUARES_TILE] g_tile
    cdef Py_ssize_t n = min(<Py_ssize_t> SQUARES_TILE, tensor.size - start)
    cdef array g = gradient(<array> &g_tile[0], tensor, start, n, tiles, held)
    return squares_of(g, &w.loops[tensor.loops], n, w.scale)


cdef double sum_touched(
    array _, const Tensor* tensor, const Tile* tile, double scale
) noexcept nogil:
    """Sum the squares of the elements in one tile of a gradient that has but some rows.

    The sum has the bits that `squares` in _loops.pxi gives it: to leave out a zero changes nothing.
    """
    cdef double[LANES] lanes
    cdef double[TILE] g_tile
    cdef array g = <array> &g_tile[0]
    cdef const Touched* touched = tensor.touched
    cdef Py_ssize_t row = tile.row, width = touched.width, place, start, end, k, n
    cdef double x
    for k in range(LANES):
        lanes[k] = 0
    while row < touched.count:
        place = touched.numbers[row] * width
        start, end = max(place, tile.start), min(place + width, tile.start + SQUARES_TILE)
        if start >= end:
            break
        while start < end:
            n = min(<Py_ssize_t> TILE, end - start)
            sum_row(g, tensor, row, start - place, n)
            for k in range(n):
                x = scale * <double> g[k]
                lanes[(start - tile.start + k) % LANES] += x * x
            start += n
        row += 1
    n = LANES // 2
    while n > 0:
        for k in range(n):
            lanes[k] += lanes[k + n]
        n //= 2
    return lanes[0]


cdef inline array gradient(
    array tile, const Tensor* tensor, Py_ssize_t start, Py_ssize_t n, Py_ssize_t tiles,
    Gathered* held,
) noexcept nogil:
    """Return where a loop finds n elements of a gradient: in place, gathered or staged."""
    cdef char* at
    if not tensor.gathered:
        return load(tile, tensor.g, tensor.stored, start, n)
    at = gathered(held, tensor, start, n, min(tiles * SQUARES_TILE, tensor.size - start))
    return load(tile, at, tensor.g_stored, 0, n)


cdef void sum_direction_tiles(void* work, Py_ssize_t block) noexcept nogil:
    cdef const Work* w = <const Work*> work
    cdef const Tensor* tensor
    cdef Gathered held
    cdef const Tile* tile
    cdef Py_ssize_t k, end = min(w.tile_count, (block + 1) * BLOCK)
    held.tensor = NULL
    for k in range(block * BLOCK, end):
        tile = &w.tiles[k]
        tensor = &w.tensors[tile.tensor]
        if tensor.stepped and tensor.direction > 0:
            if tensor.single:
                sum_direction(
                    <f32> &w.singles[tensor.line * SCALARS], w, tensor, k, end - k, &held
                )
            else:
                sum_direction(
                    <f64> &w.doubles[tensor.line * SCALARS], w, tensor, k, end - k, &held
                )
        else:
            w.sums[2 * k] = w.sums[2 * k + 1] = 0


cdef void sum_direction(
    array line, const Work* w, const Tensor* tensor, Py_ssize_t tile, Py_ssize_t tiles,
    Gathered* held,
) noexcept nogil:
    """Sum the squares of one tile of a parameter and of the direction of its step.

    The loop of a rule that is rescaled by it, if it is given a place for the direction, writes the
    direction there and nothing else.
    """
    cdef double[SQUARES_TILE] p_tile, u_tile, g_tile
    cdef double[STATE][TILE] state_tiles
    cdef array u = <array> &u_tile[0]
    cdef array[STATE] s
    cdef const Loops* loops = &w.loops[tensor.loops]
    cdef Py_ssize_t n, at = 0, start = w.tiles[tile].start
    cdef Py_ssize_t count = min(<Py_ssize_t> SQUARES_TILE, tensor.size - start)
    cdef array g = gradient(<array> &g_tile[0], tensor, start, count, tiles, held)
    cdef array p = load(<array> &p_tile[0], tensor.data[0], tensor.stored, start, count)
    cdef int k
    while at < count:
        n = min(<Py_ssize_t> TILE, count - at)
        for k in range(STATE):
            s[k] = load(
                <array> &state_tiles[k][0], tensor.data[k + 1], tensor.stored, start + at, n
            )
            if k + 1 == tensor.direction:
                s[k] = u + at
        call(line, loops, n, p + at, g + at, s[0], s[1], s[2], s[3])
        at += n
    w.sums[2 * tile] = squares_of(p, loops, count, 1)
    w.sums[2 * tile + 1] = squares_of(u, loops, count, 1)


cdef void clip_task(void* work, Py_ssize_t task) noexcept nogil:
    cdef const Work* w = <const Work*> work
    cdef Py_ssize_t i = w.tasks[task].tensor, start = w.tasks[task].start
    cdef Py_ssize_t n, left = min(<Py_ssize_t> TASK, w.total - task * TASK)
    cdef const Tensor* tensor
    while left > 0:
        tensor = &w.tensors[i]
        n = min(tensor.size - start, left)
        if tensor.stepped and n > 0:
            if tensor.single:
                clip_range(<f32> w.singles, w, tensor, start, n)
            else:
                clip_range(<f64> w.doubles, w, tensor, start, n)
        left -= n
        start = 0
        i += 1


cdef void clip_range(
    array line, const Work* w, const Tensor* tensor, Py_ssize_t start, Py_ssize_t n
) noexcept nogil:
    """Clip n elements of a gradient: in place, or gathered block by block and brought back."""
    cdef double[TRANSPOSED] room
    cdef char* g = <char*> &room[0]
    cdef const Loops* loops = &w.loops[tensor.loops]
    cdef Py_ssize_t end = start + n, most = <Py_ssize_t> sizeof(room) // tensor.stored.itemsize
    cdef Block block
    if not tensor.gathered:
        clip_stored(line, loops, tensor, tensor.g + start * tensor.stored.itemsize, n)
        return
    while start < end:
        block = block_at(tensor.route, start, end - start, most)
        gather_block(g, tensor.route, tensor.g, &block, False)
        n = block.rows * block.columns
        clip_stored(line, loops, tensor, g, n)
        scatter_block(tensor.g, tensor.route, g, &block)
        start += n


cdef void clip_stored(
    array line, const Loops* loops, const Tensor* tensor, char* g, Py_ssize_t n
) noexcept nogil:
    """Clip n elements, one behind the other, in the format of their tensor."""
    cdef double[TILE] tile
    cdef array x
    cdef Py_ssize_t count
    if tensor.stored.load == NULL:
        clip_elements(<array> g, loops, n, line)
        return
    while n > 0:
        count = min(<Py_ssize_t> TILE, n)
        x = load(<array> &tile[0], g, tensor.stored, 0, count)
        clip_elements(x, loops, count, line)
        store(x, g, tensor.stored, 0, count)
        g += count * tensor.stored.itemsize
        n -= count


cdef inline void clip_elements(
    array g, const Loops* loops, Py_ssize_t n, array line
) noexcept nogil:
    if array is f32:
        (<clip32> loops.clip)(n, g, line)
    else:
        (<clip64> loops.clip)(n, g, line)
