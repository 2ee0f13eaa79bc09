# C types for keys.py when it is compiled.

cimport cython


cdef class KeyRing:
    cdef object _locality, _configuration
    cdef bint _allow_anonymous
    cdef dict _bearers, _others

    @cython.locals(known=dict)
    cpdef authorize(self, object request, object configuration)
    cdef _remember(self, dict known, bytes given, object key)
    cdef _forget(self, object configuration)
