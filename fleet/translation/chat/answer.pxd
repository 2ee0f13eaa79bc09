# C types for answer.py when it is compiled.

cimport cython

from fleet.translation.chat.inline_reasoning cimport InlineReasoning
from fleet.translation.chat.usage cimport UsageTotals


cdef class Answer:
    cdef readonly bint over
    cdef readonly str said
    cdef str _id, _finish
    cdef object _calls, _sequence
    cdef InlineReasoning _inline
    cdef UsageTotals _totals
    cdef list _late
    cdef bint _refused, _thinking, _started, _heard, _done

    @cython.locals(data=bytes)
    cpdef list read(self, item)
    @cython.locals(events=list)
    cpdef list whole(self, bytes body)
    cpdef list fail(self, failure)
    @cython.locals(events=list, reason=str)
    cpdef list end(self)
    @cython.locals(events=list)
    cdef list _chunk(self, bytes data)
    cdef _start(self, upstream_id)
    @cython.locals(events=list)
    cdef list _choice(self, choice)
    cdef _message(self, message, list events)
    cdef _delta(self, delta, list events)
    cdef list _in_blocks(self, list thoughts)
    cdef _speak(self, list spoken, list events)
    cdef str _reason(self)


cdef str _only_text(chunk, list events)
