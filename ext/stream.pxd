# C types for stream.py when it is compiled.

cimport cython

from ext.http cimport Chunks
from ext.sse cimport SSEScanner


cdef class Outlet:
    cdef object _write
    cdef readonly object flow
    cdef readonly bint chunked
    cdef bytes _head

    cpdef bint put(self, bytes data) except -1
    cpdef bint has_room(self) except -1
    cpdef flush(self)
    cpdef end(self)
    cdef _put(self, bytes data)


cdef class Tap:
    cdef readonly object first_token, first
    cdef readonly double last
    cdef readonly list gaps
    cdef object _bounds
    cdef SSEScanner _scanner
    cdef object _rewrite
    cdef Outlet _outlet

    @cython.locals(passed=bytes)
    cpdef bint take(self, bytes data, double now) except -1


cdef class Inlet:
    cdef readonly double heard_at
    cdef Chunks _chunks
    cdef Tap _tap
    cdef object _owner, _clock

    @cython.locals(chunks=Chunks, body=bytes)
    cpdef data_received(self, bytes data)
