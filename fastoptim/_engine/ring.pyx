"""The ring: buffers over the waves of a file, and the threads that read and write them.

The threads are those of ``csrc/ring.c``, which says how the waves go round. What is in them is of
no matter here.
"""

cimport numpy as cnp
from libc.errno cimport EIO
from libc.stdint cimport int64_t

from fastoptim._engine.threads cimport forks

import os

import numpy as np

cnp.import_array()

cdef extern from "ring.h":
    int FO_CUT
    ctypedef struct fo_ring:
        pass
    ctypedef struct fo_wave:
        int64_t at
        int64_t bytes
    ctypedef struct fo_fault:
        int error
        bint writing
    fo_ring* fo_ring_new(int fd, bint direct, const fo_wave* waves, int64_t count, int buffers)
    void fo_ring_stop(fo_ring* ring) nogil
    void fo_ring_free(fo_ring* ring, bint lost) nogil
    char* fo_ring_take(fo_ring* ring) nogil
    void fo_ring_give(fo_ring* ring, bint changed) nogil
    fo_fault fo_ring_settle(fo_ring* ring) nogil
    void fo_ring_moved(fo_ring* ring, int64_t* read, int64_t* written) nogil
    bint fo_punch(int fd, int64_t at, int64_t size) nogil


def punch(int fd, int64_t at, int64_t size):
    """Give the room of a part of a file back to the file system; return whether it could."""
    return fo_punch(fd, at, size)


cdef class Ring:
    """The waves of a file, one after the other, for ever.

    Parameters
    ----------
    fd : int
        The open file.
    direct : bool
        Whether it is read and written past the page cache.
    waves : ndarray of int64, shape (count, 2)
        Where each wave begins and how many bytes it has: whole blocks.
    buffers : int
        How many waves are in memory at a time.
    failed : function
        ``failed(number, text)``: what to raise where a wave cannot be read or written. The number
        is the system's.
    """

    cdef fo_ring* ring
    cdef object waves, failed
    cdef int made_after  # so many forks
    cdef Py_ssize_t count
    cdef readonly Py_ssize_t given  # waves so far, over all sweeps
    cdef bint held  # whether the next wave was taken
    cdef readonly bint has_changed  # whether one was ever given back changed

    def __cinit__(self, int fd, bint direct, waves, int buffers, failed):
        cdef int64_t[:, ::1] table = np.ascontiguousarray(waves, np.int64)
        self.waves, self.count, self.failed = table.base, table.shape[0], failed
        self.made_after = forks()
        self.ring = fo_ring_new(fd, direct, <fo_wave*> &table[0, 0], self.count, buffers)
        if not self.ring:
            raise MemoryError

    def __dealloc__(self):
        cdef bint lost = self.made_after != forks()
        with nogil:
            fo_ring_free(self.ring, lost)

    def take(self, Py_ssize_t wave):
        """Return the bytes of a wave, which stay until `give`.

        It is the next of a sweep, or the first: what is left of a sweep that was ended is left out.

        Raises
        ------
        OSError
            If it cannot be read, or one before it could not be written; then so does every call.
        """
        cdef char* data = self.next(wave)
        cdef cnp.npy_intp size = self.waves[wave, 1]
        found = cnp.PyArray_SimpleNewFromData(1, &size, cnp.NPY_UINT8, data)
        cnp.set_array_base(found, self)
        return found

    cdef char* next(self, Py_ssize_t wave) except NULL:
        cdef char* data
        while True:
            with nogil:
                data = fo_ring_take(self.ring)
            if data == NULL:
                self.settle()
                raise AssertionError("expected a fault, found none")
            if not self.held and self.given % self.count == wave:
                self.held = True
                return data
            self.give(False)

    cpdef give(self, bint changed):
        """Give the wave back, to be written if it was changed.

        With the last of a sweep, wait until all are written, and raise as `take` does.
        """
        self.has_changed = self.has_changed or changed
        fo_ring_give(self.ring, changed)
        self.given += 1
        self.held = False
        if changed and self.given % self.count == 0:
            self.settle()

    cpdef settle(self):
        """Wait until all is written that was changed; raise as `take` does."""
        cdef fo_fault fault
        with nogil:
            fault = fo_ring_settle(self.ring)
        if fault.error:
            self.stop()
        if fault.error == FO_CUT:
            raise self.failed(EIO, "the file ends too soon: somebody has cut it short")
        if fault.error:
            what = "written" if fault.writing else "read"
            raise self.failed(fault.error, f"{os.strerror(fault.error)}, as state was {what}")

    def stop(self):
        """Leave the file alone from now on."""
        with nogil:
            fo_ring_stop(self.ring)

    @property
    def moved(self):
        """How many bytes have been read, and how many written."""
        cdef int64_t read, written
        fo_ring_moved(self.ring, &read, &written)
        return read, written


cdef class RingWaves:
    """How a plan goes over the waves of a ring: what it takes for its `waves`.

    An interrupt comes only where code in Python runs. None does between two waves, so that a step
    comes to its end.

    Parameters
    ----------
    ring : Ring or None
        The ring; None where no wave has any bytes.
    pieces : list of lists of tuples
        For each wave ``(array, start, stop)``: the ranges of parameters that are in it.
    offsets : list of ndarrays of intp
        For each wave, where in its bytes each array of each piece begins, -1 for those that are
        not there.
    scratch : Scratch
        The file, which may be of no use any more.
    """

    cdef Ring ring
    cdef readonly list pieces
    cdef list offsets
    cdef object scratch
    cdef int made_after  # so many forks
    cdef readonly bint gradients  # False: they are in memory

    def __init__(self, Ring ring, list pieces, list offsets, scratch):
        self.ring, self.pieces, self.offsets, self.scratch = ring, pieces, offsets, scratch
        self.made_after = forks()

    def before(self, Py_ssize_t wave, what):
        """Return the addresses of the arrays in a wave, 0 for those that are not there."""
        cdef char* data = NULL
        cdef Py_ssize_t n
        cdef cnp.ndarray offsets, found
        cdef Py_ssize_t* address
        if wave == 0 and (self.scratch.fault is not None or self.made_after != forks()):
            self.scratch.check()  # which raises
        if self.ring is not None:
            data = self.ring.next(wave)
        offsets = self.offsets[wave]
        found = cnp.PyArray_NewCopy(offsets, cnp.NPY_CORDER)
        address = <Py_ssize_t*> cnp.PyArray_DATA(found)
        for n in range(cnp.PyArray_SIZE(found)):
            address[n] = 0 if address[n] < 0 else address[n] + <Py_ssize_t> data
        return found

    def behind(self, Py_ssize_t wave, str what):
        """Give a wave back, to be written if it was changed."""
        if self.ring is not None:
            self.ring.give(what in ("update", "start", "swap"))
