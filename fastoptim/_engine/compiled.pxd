from fastoptim._engine.passes cimport Passes
from fastoptim._engine.staging cimport Tensor

cdef struct Loops:
    # The compiled loops of a rule for one type, as they are declared in _kernel.pxd.
    void* rule
    void* after
    void* squares

cdef struct Work:
    # What a task needs: tables of all arrays, and of where each task and each tile begins.
    Tensor* tensors
    const double* doubles
    const float* singles
    Loops[2] loops  # for double and for float
    Py_ssize_t total
    Py_ssize_t* first_tensor  # of each task
    Py_ssize_t* first_element
    Py_ssize_t tile_count
    Py_ssize_t* tile_tensor  # of each tile whose squares are summed
    Py_ssize_t* tile_start
    double* tile_sums
    double* tile_sums_of_p  # beside those of the direction
    double scale


cdef class CompiledPasses(Passes):
    cdef Work work
    cdef Py_ssize_t tasks

    cdef take_loops(self, loops)
    cdef cut_tasks(self)
    cdef cut_tiles(self)
    cdef Py_ssize_t blocks(self) noexcept
