# C types for dispatch.py when it is compiled.

cimport cython

from cortex_site.http.answer_reader cimport AnswerReader
from ext.ledger cimport Entry
from fleet.breaker cimport Breaker
from fleet.gateway.http.pool cimport Begun, Pool
from fleet.gateway.nodes.adapter cimport RequestAdapter
from fleet.gateway.nodes.nodes cimport Node, Nodes
from fleet.router cimport Facts, Route, choose


cdef class Dispatch:
    cdef object _plane, _request, _error, _excluded, _prefix, _marks
    cdef Route _route
    cdef Node _node
    cdef Entry _entry
    cdef Begun _begun
    cdef bint _repeated

    @cython.locals(begun=Begun, nodes=Nodes, node=Node, pool=Pool, route=Route, path=str, lines=bytes, body=bytes)
    cpdef Begun begin(self)
    @cython.locals(answer=AnswerReader)
    cpdef bint accept(self, Begun begun) except -1
    cpdef abandon(self)
    @cython.locals(entry=Entry, now=double)
    cdef _asked(self, Route route, Breaker breaker)
    @cython.locals(adapter=RequestAdapter, notes=tuple, breaker=Breaker)
    cdef _accepted(self, Node node, dict headers)
    @cython.locals(entry=Entry)
    cdef _pass_over(self, str node, object error)
    @cython.locals(model=str, nodes=Nodes, replicas=tuple, facts=Facts)
    cdef Route _choose(self)
    @cython.locals(adapter=RequestAdapter)
    cdef tuple _worded(self, Node node)


cdef bint _is_of_type(dict headers, bytes expected) except -1
