# C types for inline_reasoning.py when it is compiled.

cimport cython


cdef class InlineReasoning:
    cdef readonly bint settled
    cdef str _held
    cdef bint _inside

    @cython.locals(first=str)
    cpdef bint passes(self, str text) except -1
    cpdef list feed(self, str text)
    @cython.locals(held=str)
    cpdef list settle(self)
    @cython.locals(begin=str)
    cdef list _start(self, str text)
    cdef list _reasoning(self, str text)
