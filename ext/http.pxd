# C types for http.py when it is compiled.

cimport cython

cdef int MAX_HEAD_BYTES, _MAX_DIGITS
cdef int _CR, _LF, _SPACE, _TAB, _COLON, _SLASH, _ZERO, _NINE
cdef int _NAME, _VALUE, _TARGET, _CAPITAL
cdef bytes _TABLE, _HEX
cdef tuple _METHODS


cdef class Head:
    cdef readonly str method, path
    cdef readonly bytes query
    cdef readonly int status
    cdef readonly dict headers
    cdef readonly long long length
    cdef readonly bint chunked, keep_alive
    cdef readonly Py_ssize_t size
    cdef bytes _before, _after

    @cython.locals(text="const unsigned char*", at=Py_ssize_t, end=Py_ssize_t, most=Py_ssize_t, length="long long", digits=bytes)
    cpdef bint repeats(self, bytes data) except -1
    @cython.locals(text="const unsigned char*", table="const unsigned char*", start=Py_ssize_t, stop=Py_ssize_t, name=bytes, capitals=int)
    cdef bint _read_headers(self, bytes data, Py_ssize_t at, Py_ssize_t end)
    @cython.locals(headers=dict, length=bytes, coding=bytes, connection=bytes)
    cdef bint _read_framing(self)
    @cython.locals(digits=bytes, at=Py_ssize_t)
    cdef _keep(self, bytes data)


@cython.locals(line=Py_ssize_t, start=Py_ssize_t, end=Py_ssize_t, method=bytes, at=Py_ssize_t, text="const unsigned char*", table="const unsigned char*", head=Head, query=Py_ssize_t)
cpdef Head request(bytes data)

@cython.locals(status="long long", line=Py_ssize_t, at=Py_ssize_t, text="const unsigned char*", table="const unsigned char*", head=Head)
cpdef Head answer(bytes data)

@cython.locals(value="long long", i=Py_ssize_t, c=int)
cdef long long _number(const unsigned char* text, Py_ssize_t size) noexcept


cdef class Chunks:
    cdef readonly bint stopped, ended, odd, broken
    cdef readonly bytes rest
    cdef Py_ssize_t _left
    cdef bytes _tail

    @cython.locals(at=Py_ssize_t, end=Py_ssize_t, text="const unsigned char*", held=list, size=Py_ssize_t)
    cpdef bytes feed(self, bytes data)
    @cython.locals(text="const unsigned char*", digits="const unsigned char*", i=Py_ssize_t, size=Py_ssize_t, mark=bytes, found=bytes)
    cdef Py_ssize_t _begin(self, bytes data, Py_ssize_t at, Py_ssize_t end)
