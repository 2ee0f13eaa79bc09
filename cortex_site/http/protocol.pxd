# C types for protocol.py when it is compiled.

cimport cython

from cortex_site.http.client_connection cimport ClientConnection
from cortex_site.http.request_reader cimport RequestReader
from ext.stream cimport Outlet


cdef class ServerProtocol(ClientConnection):
    @cython.locals(reader=RequestReader, num_unread=Py_ssize_t)
    cpdef data_received(self, bytes data)
    cdef _refuse(self, object refusal)
    cdef _speak_http2(self, object upgraded=*)
    cdef bint _upgrade(self, object request) except -1
    cdef _accept(self, object request)
    cdef _begin(self, object request)
    @cython.locals(more=bytes, keep_alive=bint)
    cpdef answer(self, bytes lines, bytes content)
    @cython.locals(head=bytes, outlet=Outlet, chunked=bint, keep_alive=bint)
    cpdef Outlet stream(self, bytes lines)
    cdef _forget(self, object request)
    @cython.locals(outlet=Outlet)
    cpdef end_stream(self)
    cpdef respond(self, object response)
    cdef _over(self)
    cdef _go_on(self, object response)
    cdef _start(self, object request, object serving)
    @cython.locals(content=bytes, head=bytes, keep_alive=bint)
    cdef _send(self, object parsed, object response)
    cdef _served(self, object parsed, bint failed, bint soon=*)
