# C types for pool.py when it is compiled.

cimport cython

from ext.writer cimport ByteWriter
from fleet.gateway.http.connection cimport Connection

cdef ByteWriter _writer


cdef class Begun:
    cdef Pool _pool
    cdef readonly Connection connection
    cdef readonly bytes head, body
    cdef bint _is_over

    cpdef close(self)
    cpdef forget(self)


cdef class Pool:
    cdef str _host
    cdef bytes _base, _static
    cdef object _port, _tls, _bounds, _waiting
    cdef list _idle
    cdef set _busy
    cdef Py_ssize_t _places
    cdef bint _closed

    @cython.locals(connection=Connection, head=bytes)
    cpdef Begun begin(self, str method, str path, bytes lines, bytes body)
    @cython.locals(head=ByteWriter)
    cdef bytes _head(self, str method, str path, bytes lines, bytes body)
    cdef _free(self)
    @cython.locals(connection=Connection)
    cpdef Connection pop_idle(self)
    cpdef release(self, Connection connection)
