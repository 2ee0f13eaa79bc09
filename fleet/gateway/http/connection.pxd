# C types for connection.py when it is compiled.

cimport cython

from cortex_site.http.answer_reader cimport AnswerReader
from ext.stream cimport Tap
from fleet.gateway.http.body cimport BodyBuffer
from fleet.gateway.http.waiter cimport Waiter


cdef AnswerReader _NO_ANSWER


cdef class Connection:
    cdef readonly AnswerReader answer
    cdef readonly BodyBuffer body
    cdef object _bounds, _loop, _transport, _inlet
    cdef Tap _tap
    cdef Waiter _waiter
    cdef double _head_until, _idle_since

    @cython.locals(answer=AnswerReader)
    cpdef data_received(self, bytes data)
    cpdef send(self, bytes request, bytes body)
    cpdef listen(self, object listener)
    cpdef bint failed(self)
    cpdef pour_into(self, Tap tap, object listener)
    cpdef go_on(self)
    cpdef bint is_poured(self) except -1
    cdef _pass_on(self, Tap tap)
    cdef _open_inlet(self, Tap tap)
    cdef _close_inlet(self)
    cdef _fail(self, object error)
    cpdef abort(self)
    cpdef bint is_lost_to(self, object error)
    cpdef bint may_send(self)
    cpdef bint is_fresh(self) except -1
    cpdef bint may_be_kept(self)
    cpdef rest(self)
