# C types for prefetch.py when it is compiled.

cimport cython

from ext.writer cimport ByteWriter

cdef double _MINUTE_S
cdef tuple _NAMES
cdef ByteWriter _writer


cdef class Grant:
    cdef public str id
    cdef public long long tokens, window, requests, slots
    cdef public double at, end, requests_end, requests_reset_s, tokens_reset_s
    cdef public object key
    cdef public bint local, plenty
    cdef public Prefetch prefetch

    cpdef bint end_with(self, long long used) except -1


cdef class Prefetch:
    cdef readonly long long open
    cdef public bint asked
    cdef readonly bint wanted_again
    cdef double _longest_s, _since, _until, _request_s, _token_s
    cdef long long _second, _now_requests, _now_tokens, _before_requests, _before_tokens, _last_tokens
    cdef long long _requests, _slots, _tokens
    cdef bint _has_all_slots
    cdef Grant _grant
    cdef object _key, _limits
    cdef dict _running

    @cython.locals(second="long long", lately=bint)
    cpdef note(self, long long tokens, double now)
    @cython.locals(whole=Grant, grant=Grant, at=double)
    cpdef Grant admit(self, key, long long tokens, double now)
    @cython.locals(grant=Grant)
    cpdef hold(self, key, Grant wanted, Grant given, double now, double until, list admitted)
    cpdef let_run(self, Grant grant, key)
    cdef _run(self, Grant grant, key)
    cpdef bint is_spent(self, key, long long tokens, double now) except -1
    cpdef bint end(self, Grant grant, long long used) except -1
    @cython.locals(whole=Grant, one=Grant, left="long long")
    cpdef release(self)


cpdef bytes head_lines(Grant grant, limits)

cpdef bytes anthropic_lines(Grant grant, limits)

cdef _put_account(tuple names, long long limit, double reset_s)

@cython.locals(left=double)
cpdef long long remaining(long long limit, double reset_s) except -1

cpdef str duration(double seconds)

@cython.locals(hundredths="long long", rest="long long", whole="long long")
cdef _put_duration(double seconds)

@cython.locals(whole="long long")
cdef long long _rounded_up(double value) noexcept
