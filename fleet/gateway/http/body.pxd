# C types for body.py when it is compiled.


cdef class BodyBuffer:
    cdef readonly Py_ssize_t size
    cdef readonly bint is_paused
    cdef list _parts
    cdef object _transport

    cpdef attach(self, object transport)
    cpdef add(self, bytes data)
    cpdef bytes take(self)
    cpdef pause(self)
    cpdef resume(self)
