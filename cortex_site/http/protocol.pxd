# C types for protocol.py when it is compiled.

cimport cython

from cortex_site.http.deadline cimport Deadline
from cortex_site.http.request_reader cimport RequestReader
from cortex_site.http.response_head cimport ResponseHeads


cdef class ServerProtocol:
    cdef object _application, _bounds, _held, _loop, _server, _pipelined, _transport, _flow, _client
    cdef object _request, _answering, _task, _awaited
    cdef Deadline _deadline
    cdef RequestReader _reader
    cdef ResponseHeads _heads
    cdef double _patience_s, _latest
    cdef Py_ssize_t _num_held
    cdef bint _has_eof, _stopping, _is_plain
    cdef bytes _opening

    @cython.locals(reader=RequestReader, num_unread=Py_ssize_t)
    cpdef data_received(self, bytes data)
    @cython.locals(now=double)
    cdef _watch(self, object before)
    cdef _hold(self, Py_ssize_t size)
    cdef _refuse(self, object refusal)
    cdef _speak_http2(self, object upgraded=*)
    cdef bint _upgrade(self, object request) except -1
    cdef _accept(self, object request)
    cdef _begin(self, object request)
    @cython.locals(more=bytes, keep_alive=bint)
    cpdef answer(self, bytes lines, bytes content)
    cpdef respond(self, object response)
    cdef _over(self)
    cdef _start(self, object request, object serving)
    @cython.locals(content=bytes, head=bytes, keep_alive=bint)
    cdef _send(self, object parsed, object response)
    cdef _served(self, object parsed, bint failed, bint soon=*)
    cdef _send_continue(self)
