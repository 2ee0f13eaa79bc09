# C types for relay.py when it is compiled.

cimport cython

from ext.sse cimport SSEScanner
from ext.stream cimport Tap
from fleet.gateway.http.connection cimport Connection


cdef class Relay:
    cdef object _answer, _owner
    cdef SSEScanner _scanner
    cdef Tap _tap
    cdef Connection _connection

    @cython.locals(scanner=SSEScanner, tap=Tap)
    cpdef close(self)
    cpdef begin(self, Connection connection)
    @cython.locals(connection=Connection)
    cpdef on_news(self)
    cpdef go_on(self)
    @cython.locals(is_whole=bint, rest=bytes)
    cpdef bytes rest(self)


cdef bint _is_json(bytes data) except -1
