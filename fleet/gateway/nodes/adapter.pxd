# C types for adapter.py when it is compiled.

cimport cython

cdef bytes _PREFIX


cdef class RequestAdapter:
    cdef object _config
    cdef bint _is_foreign, _without_usage

    cpdef str path(self, str path)
    cpdef bytes lines(self, bytes lines, bytes caller)
    @cython.locals(name=bytes, value=bytes, found=list)
    cpdef tuple notes(self, dict headers)
    cpdef bytes body(self, str model, bytes body)
    cpdef bint learn(self, object refusal, bytes sent) except -1


cdef _take_note(list found, bytes name, bytes value)
