# C types for chunk.py when it is compiled.

cimport cython

cdef bint _COMPILED
cdef int _SPACE, _QUOTE, _BACKSLASH


@cython.locals(data=bytes)
cpdef bytes enclose(bytes before, str text, bytes after)

cpdef bint is_plain(bytes data)

@cython.locals(i=Py_ssize_t)
cdef bint _is_plain(const unsigned char* data, Py_ssize_t end) noexcept
