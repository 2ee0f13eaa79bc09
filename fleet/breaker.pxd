# C types for breaker.py when it is compiled.


cdef class Breaker:
    cdef readonly int failures
    cdef readonly bint unauthorized
    cdef int _openings
    cdef object _open_until
    cdef double _probing_until
    cdef dict _busy_until

    cpdef str state(self, double now)
    cpdef bint admits(self, double now) except -1
    cpdef sent(self, double now)
    cpdef succeeded(self)
    cpdef abandoned(self)
