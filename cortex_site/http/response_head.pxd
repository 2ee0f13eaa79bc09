# C types for response_head.py when it is compiled.

cimport cython

from ext.writer cimport ByteWriter

cdef ByteWriter _writer


cdef class ResponseHeads:
    cdef object _state, _defaults
    cdef bytes _default_lines

    cpdef bytes make(self, object response, str framing, bint keep_alive)
    @cython.locals(text=ByteWriter)
    cpdef bytes whole(self, bytes lines, bytes more, bytes content, bint keep_alive)
    @cython.locals(text=ByteWriter)
    cpdef bytes streamed(self, bytes lines, bytes more, bint chunked, bint keep_alive)
    cdef bytes _last_lines(self)
