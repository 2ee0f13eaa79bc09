# C types for relay.py when it is compiled.

cimport cython

from ext.sse cimport SSEScanner
from fleet.gateway.http.connection cimport Connection


cdef class Relay:
    cdef object _answer, _owner
    cdef SSEScanner _scanner
    cdef object _tap
    cdef Connection _connection

    @cython.locals(scanner=SSEScanner)
    cpdef close(self)
    cpdef begin(self, Connection connection)
    @cython.locals(connection=Connection)
    cpdef on_news(self)
    cpdef go_on(self)
    @cython.locals(is_whole=bint, rest=bytes)
    cpdef bytes rest(self)


cdef bint _is_json(bytes data) except -1
