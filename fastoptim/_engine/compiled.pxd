from fastoptim._engine.passes cimport Passes
from fastoptim._engine.staging cimport Tensor
from fastoptim._engine.threads cimport task_t
from fastoptim._engine.tuning cimport MOST_LEVELS

cdef extern from "rooms.h":
    ctypedef struct fo_taken:
        pass

cdef struct Loops:
    # The compiled loops of a rule for one type, as they are declared in _loop.pxd.
    void* rule
    bint is_open  # whether the rule is one of the user's own, whose loop knows no stage
    void* before
    void* after
    void* clip
    void* squares

cdef struct Task:
    # Where a task begins.
    Py_ssize_t tensor
    Py_ssize_t start

cdef struct Tile:
    # Where a tile of the sums begins.
    Py_ssize_t tensor
    Py_ssize_t start
    Py_ssize_t row  # of a gradient that has but some rows, the first of these in the tile

cdef struct Cut:
    # Which tasks and which tiles are those of a wave: the first ones, and how many.
    Py_ssize_t task
    Py_ssize_t task_count
    Py_ssize_t tile
    Py_ssize_t tile_count
    Py_ssize_t total  # elements

cdef struct Work:
    # What a thread needs to run a task: tables of all arrays, all tasks and all tiles of the sums.
    Tensor* tensors
    const double* doubles
    const float* singles
    const Loops* loops  # of the level in use: of each rule, for double and for float
    Py_ssize_t total
    Py_ssize_t task_count
    const Task* tasks
    Py_ssize_t tile_count
    const Tile* tiles
    double* sums  # of the tiles: of the gradient, or of the parameter and of its step's direction
    double scale
    int rooms  # tiles in which threads gather blocks, made when a gradient first needs them
    char* room
    fo_taken* taken


cdef class RuleLoops:
    cdef readonly str rule  # None: there are but the stages
    cdef readonly dict levels
    cdef readonly Py_ssize_t count  # of rules
    cdef tuple names
    cdef Loops* table  # of each level: of each rule, for double and for float

    cdef fill(self, dict levels)


cdef class CompiledPasses(Passes):
    cdef Work work
    cdef Task* tasks  # NULL until they are needed, as are the tiles
    cdef Py_ssize_t task_capacity
    cdef bint tasks_by_rows  # whether they are cut for gradients that have but some rows
    cdef Tile* tiles
    cdef Py_ssize_t table_capacity  # of tiles
    cdef Cut* cuts  # of the waves
    cdef Cut all  # of what is in no wave: all elements, and all tiles
    cdef RuleLoops loops
    cdef list tuned  # a Tuned for each kind of pass, None until it is needed

    cdef go(self, int which, task_t task, Py_ssize_t traffic, bint flush=*, bint in_order=*)
    cdef inline run_tasks(
        self, int which, task_t task, Py_ssize_t traffic, bint flush, bint in_order
    )
    cdef void select(self, const Cut* cut, int which) noexcept
    cdef make_rooms(self, int count)
    cdef clip(self, double factor, double limit)
    cdef cut_tasks(self)
    cdef cut_tiles(self)
    cdef Py_ssize_t cut_rows(self, Py_ssize_t i, Py_ssize_t tile) noexcept
    cdef cut_waves(self)
