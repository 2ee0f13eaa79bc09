# C types for nodes.py when it is compiled.

cimport cython

from fleet.breaker cimport Breaker
from fleet.gateway.http.pool cimport Pool
from fleet.gateway.nodes.adapter cimport RequestAdapter


cdef class Node:
    cdef readonly object config, heard
    cdef readonly Pool pool
    cdef readonly Breaker breaker
    cdef readonly RequestAdapter adapter
    cdef object _fleet, _asking, _control, _task


cdef class Nodes:
    cdef readonly object affinity
    cdef object _fleet, _bounds, _asking, _ca, _workers
    cdef dict _nodes
    cdef set _troubled

    cpdef Node get(self, str name)
    @cython.locals(node=Node)
    cpdef Breaker breaker(self, str name)
