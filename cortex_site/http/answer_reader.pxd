# C types for answer_reader.py when it is compiled.

cimport cython

from ext.http cimport Chunks, Head


cdef class AnswerReader:
    cdef public object state
    cdef readonly int status
    cdef readonly dict headers
    cdef readonly bint keep_alive
    cdef readonly str error
    cdef readonly Chunks chunks
    cdef object _parser
    cdef list _parts
    cdef Py_ssize_t _head_size

    @cython.locals(head=Head)
    cpdef bytes feed(self, bytes data)
    cpdef close(self)
    @cython.locals(body=bytes)
    cdef bytes _feed_chunks(self, Chunks chunks, bytes data)
    cpdef bytes resume(self)
    cdef bytes _parse(self, bytes data)
    cdef _fail(self, str why)
