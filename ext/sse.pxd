# C types for sse.py when it is compiled.

cimport cython

cdef bint _COMPILED
cdef int _VISIBLE, _FINISH, _USAGE, _ERROR, _CHOICES
cdef int _QUOTE, _COLON, _OPEN_LIST, _OPEN_OBJECT
cdef int _C, _E, _F, _R, _T, _U
cdef Py_ssize_t MAX_EVENT_BYTES


cdef class SSEScanner:
    cdef readonly bint visible, done
    cdef readonly bytes usage, finish, error
    cdef readonly Py_ssize_t events
    cdef bint _hide_usage
    cdef bytes _tail
    cdef Py_ssize_t _searched

    @cython.locals(is_shown=bint, buffer=bytes, start=Py_ssize_t, end=Py_ssize_t, event=bytes)
    cpdef bytes feed(self, bytes data)
    cdef bytes _keep(self, bytes buffer, Py_ssize_t start, list kept)
    @cython.locals(tail=bytes)
    cpdef bytes close(self)
    @cython.locals(data=bytes)
    cdef bint _look(self, bytes event)
    @cython.locals(facts=int)
    cdef bint _note(self, bytes data)


cdef bint _is_plain(bytes data)

cdef int _facts_by_patterns(bytes data)

@cython.locals(facts=int, at=Py_ssize_t, c=int)
cdef int _facts(const unsigned char* data, Py_ssize_t end) noexcept

cdef int _delta_fact(const unsigned char* data, Py_ssize_t at, Py_ssize_t end) noexcept
cdef int _event_fact(const unsigned char* data, Py_ssize_t at, Py_ssize_t end) noexcept

@cython.locals(i=Py_ssize_t)
cdef bint _has(
    const unsigned char* data, Py_ssize_t at, Py_ssize_t end, const unsigned char* word, Py_ssize_t size
) noexcept
cdef Py_ssize_t _space(const unsigned char* data, Py_ssize_t at, Py_ssize_t end) noexcept
cdef Py_ssize_t _colon(const unsigned char* data, Py_ssize_t at, Py_ssize_t end) noexcept
cdef int _value(const unsigned char* data, Py_ssize_t at, Py_ssize_t end, int first, int fact) noexcept
cdef int _text(const unsigned char* data, Py_ssize_t at, Py_ssize_t end) noexcept
cdef int _list(const unsigned char* data, Py_ssize_t at, Py_ssize_t end, int fact) noexcept

cdef Py_ssize_t _event_end(bytes buffer, Py_ssize_t start)
cdef bytes _data(bytes event)
