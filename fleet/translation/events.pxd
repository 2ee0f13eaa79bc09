# C types for events.py when it is compiled.


cdef class Grammar:
    cdef readonly object phase

    cpdef step(self, event)
