cpdef change(changes)
cdef void swap(char* a, char* b, Py_ssize_t size) noexcept
