# C types for dispatch.py when it is compiled.

cimport cython

from cortex_site.http.answer_reader cimport AnswerReader
from ext.ledger cimport Entry
from fleet.gateway.http.pool cimport Begun, Pool
from fleet.gateway.nodes.adapter cimport RequestAdapter


cdef class Dispatch:
    cdef object _plane, _request, _route, _node, _error, _excluded, _prefix, _marks
    cdef Entry _entry
    cdef Begun _begun
    cdef bint _repeated

    @cython.locals(begun=Begun, pool=Pool)
    cpdef Begun begin(self)
    @cython.locals(answer=AnswerReader)
    cpdef bint accept(self, Begun begun) except -1
    cpdef abandon(self)
    @cython.locals(entry=Entry, now=double)
    cdef _asked(self, object route)
    @cython.locals(adapter=RequestAdapter, notes=tuple)
    cdef _accepted(self, object node, dict headers)
    @cython.locals(entry=Entry)
    cdef _pass_over(self, str node, object error)
    cdef _choose(self)
    @cython.locals(adapter=RequestAdapter)
    cdef tuple _worded(self, object node)


cdef bint _is_of_type(dict headers, bytes expected) except -1
