# C types for peek.py when it is compiled.

cimport cython

cdef int MAX_DEPTH
cdef int _QUOTE, _BACKSLASH, _COMMA, _COLON, _OPEN_OBJECT, _CLOSE_OBJECT, _OPEN_LIST, _CLOSE_LIST
cdef int _ZERO, _NINE, _MINUS, _POINT, _MAX_DIGITS, _LARGE
cdef int _MODEL, _STREAM, _MAX_TOKENS, _MAX_COMPLETION, _CHOICES, _OPTIONS


cdef int _SPECIAL, _ESCAPED
cdef bytes _TABLE


cdef class Peek:
    cdef readonly str model
    cdef readonly bint stream, include_usage
    cdef readonly long long max_tokens, max_completion_tokens, n
    cdef Py_ssize_t _model_start, _model_end, _options_start, _options_end, _usage_start, _usage_end
    cdef bint _options_empty
    cdef bytes _body
    cdef const unsigned char* _data
    cdef Py_ssize_t _at, _end
    cdef bint _escaped
    cdef int _found

    cpdef bytes with_model(self, bytes model)
    @cython.locals(start=Py_ssize_t)
    cpdef bytes with_usage(self)
    @cython.locals(body=bytes)
    cdef bytes _replaced(self, Py_ssize_t start, Py_ssize_t end, bytes text)
    cdef bint _read(self)
    cdef bint _members(self, int level)
    @cython.locals(start=Py_ssize_t, end=Py_ssize_t)
    cdef bint _named_value(self, int level)
    @cython.locals(size=Py_ssize_t)
    cdef bint _member(self, Py_ssize_t start, Py_ssize_t end)
    @cython.locals(before=int)
    cdef bint _once(self, int key)
    @cython.locals(start=Py_ssize_t)
    cdef bint _read_model(self)
    @cython.locals(value=int)
    cdef bint _read_stream(self)
    cdef int _boolean(self)
    @cython.locals(start=Py_ssize_t, i=Py_ssize_t, value="long long", c=int)
    cdef bint _read_count(self, int key)
    @cython.locals(start=Py_ssize_t)
    cdef bint _read_options(self)
    @cython.locals(value=int)
    cdef bint _option(self, Py_ssize_t start, Py_ssize_t end)
    @cython.locals(c=int)
    cdef bint _value(self, int level)
    cdef bint _items(self, int level)
    @cython.locals(at=Py_ssize_t, end=Py_ssize_t, size=Py_ssize_t, c=int, data="const unsigned char*", table="const unsigned char*", escaped=bint)
    cdef bint _string(self)
    @cython.locals(high=int, low=int)
    cdef int _unicode_escape(self, Py_ssize_t at)
    @cython.locals(value=int, c=int, i=Py_ssize_t)
    cdef int _hex(self, Py_ssize_t at)
    @cython.locals(start=Py_ssize_t, size=Py_ssize_t)
    cdef bint _number(self)
    @cython.locals(start=Py_ssize_t)
    cdef Py_ssize_t _digits(self)
    cdef bint _literal(self, const unsigned char* word, Py_ssize_t size) noexcept
    @cython.locals(i=Py_ssize_t)
    cdef bint _is(self, Py_ssize_t start, const unsigned char* word, Py_ssize_t size) noexcept
    cdef bint _take(self, int c) noexcept
    cdef void _space(self) noexcept


@cython.locals(seen=Peek)
cpdef Peek peek(bytes body)
