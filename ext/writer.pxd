# C types for writer.py when it is compiled.

cimport cython

from ext.chunk cimport enclose, is_plain

cdef extern from "string.h" nogil:
    void* memcpy(void* into, const void* given, size_t size)

cdef bint _COMPILED
cdef int _ZERO, _MOST_DIGITS
cdef double _MOST_S


cdef class ByteWriter:
    cdef readonly Py_ssize_t size
    cdef bytearray _data

    cpdef clear(self)
    @cython.locals(data="const char*", piece=bytes)
    cpdef bytes written(self, Py_ssize_t start, Py_ssize_t end)
    @cython.locals(data="char*")
    cpdef replace(self, Py_ssize_t at, int byte)
    @cython.locals(size=Py_ssize_t, end=Py_ssize_t)
    cpdef int put(self, bytes piece) except -1
    @cython.locals(size=int, rest="long long")
    cpdef int put_number(self, bytes before, long long value) except -1
    @cython.locals(data="char*", at=Py_ssize_t)
    cpdef int put_digits(self, long long value, int size) except -1
    @cython.locals(millionths="long long", whole="long long")
    cpdef int put_seconds(self, bytes before, double value) except -1
    @cython.locals(data=bytes)
    cpdef int put_text(self, bytes before, str text) except -1


cpdef bytes quoted(str text)

cdef void _copy(char* into, Py_ssize_t at, const char* piece, Py_ssize_t size) noexcept
