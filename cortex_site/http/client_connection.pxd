# C types for client_connection.py when it is compiled.

cimport cython

from cortex_site.http.deadline cimport Deadline
from cortex_site.http.request_reader cimport RequestReader
from cortex_site.http.response_head cimport ResponseHeads
from ext.stream cimport Outlet


cdef class ClientConnection:
    cdef object _application, _bounds, _held, _loop, _server, _pipelined, _transport, _flow, _client
    cdef object _request, _answering, _handed_over, _task, _awaited
    cdef Outlet _outlet
    cdef Deadline _deadline
    cdef RequestReader _reader
    cdef ResponseHeads _heads
    cdef double _patience_s, _latest
    cdef Py_ssize_t _num_held
    cdef bint _has_eof, _stopping, _is_plain
    cdef bytes _opening, _unparsed

    @cython.locals(now=double)
    cdef _watch(self, object before)
    cdef _hold(self, Py_ssize_t size)
    cdef bytes _put_off(self, bytes data)
    cpdef data_received(self, bytes data)
    cdef _send_continue(self)
