# C types for exchange.py when it is compiled.

cimport cython

from cortex_site.http.answer_reader cimport AnswerReader
from ext.ledger cimport Entry
from ext.prefetch cimport Grant, Prefetch
from ext.stream cimport Outlet
from fleet.gateway.answer_head cimport answer_lines
from fleet.gateway.dispatch cimport Dispatch
from fleet.gateway.http.connection cimport Connection
from fleet.gateway.http.pool cimport Begun
from fleet.gateway.limits.keys cimport KeyRing
from fleet.gateway.record.draft cimport RecordDraft
from fleet.gateway.relay cimport Relay


cdef class Exchange:
    cdef public Grant grant
    cdef readonly object plane, dialect, client, key
    cdef readonly bytes body
    cdef readonly str request_id
    cdef readonly RecordDraft draft
    cdef readonly Entry entry
    cdef readonly bint is_admitted
    cdef readonly Dispatch dispatch
    cdef public object call, held, asked
    cdef object _request, _detour, _offer, _writer
    cdef Begun _begun
    cdef Relay _relay
    cdef Outlet _outlet
    cdef bint _finished

    cpdef begin(self)
    cpdef on_admission(self, object _answer)
    cdef bint _admitted(self) except -1
    @cython.locals(begun=Begun, dispatch=Dispatch, connection=Connection)
    cpdef on_news(self)
    @cython.locals(body=bytes, content=bytes)
    cdef _answer(self, Begun begun)
    @cython.locals(relay=Relay, outlet=Outlet)
    cpdef stream(self, Connection connection)
    cdef Outlet _open_stream(self)
    @cython.locals(outlet=Outlet)
    cpdef say_waiting(self)
    cdef _forget(self)
    cpdef go_on(self)
    @cython.locals(relay=Relay, last=bytes)
    cpdef on_stream_end(self)
    cpdef break_off(self, object error)
    cdef _end_stream(self, bytes last, str outcome, str error_code=*)
    cpdef close(self)
    @cython.locals(keys=KeyRing)
    cdef bint _decode(self) except -1
    @cython.locals(entry=Entry, model=str)
    cpdef admit(self, object call)
    @cython.locals(prefetch=Prefetch)
    cdef bint _reserve(self) except -1
    cpdef bint is_limited(self) except -1
    cpdef estimate(self)
    @cython.locals(begun=Begun)
    cdef bint _send(self) except -1
    @cython.locals(entry=Entry, model=str, body=bytes, lines=bytes, caller=bytes)
    cpdef Dispatch make_dispatch(self)
    cpdef rewriter(self)
    cpdef lost(self, object cause)
    cpdef refuse(self, object error)
    cpdef as_error(self, object error)
    @cython.locals(entry=Entry, lines=bytes)
    cpdef bytes lines(self, bytes content_type)
    @cython.locals(draft=RecordDraft, grant=Grant, relay=Relay)
    cpdef finish(self, str outcome, int status, str error_code=*)
