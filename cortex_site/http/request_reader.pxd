# C types for request_reader.py when it is compiled.

cimport cython

from ext.http cimport Head


cdef class RequestReader:
    cdef public object state
    cdef public Py_ssize_t body_size
    cdef public str peer
    cdef Py_ssize_t _max_body_bytes, _piece_size, _head_size, _trailer_size
    cdef object _judge, _parser, _request
    cdef Head _head
    cdef bytes _host, _url
    cdef dict _headers
    cdef list _requests, _parts

    @cython.locals(head=Head, body=bytes)
    cpdef object feed(self, bytes data)
    cpdef forget_head(self)
    cdef bint _knows_host(self, bytes host) except -1
    cdef object _parse(self, bytes data)
    cdef _forget_parser(self)
    cdef _refuse(self, object refusal)
