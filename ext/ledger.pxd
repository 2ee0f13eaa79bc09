# C types for ledger.py when it is compiled.

cimport cython

from ext.writer cimport ByteWriter, quoted

cdef int _OPEN
cdef frozenset _ORDINARY
cdef tuple _KIND


cdef class Entry:
    cdef public str request_id, dialect, model, node, key, outcome, error_code, finish_reason
    cdef public int status, retries
    cdef public bint stream, cold
    cdef public long long prompt_tokens, completion_tokens, cached_tokens
    cdef public double received, first_token, queue_s, load_s, overhead_s, gaps_s
    cdef public tuple attempts, waits_s, notes
    cdef public list gaps


cdef class Histogram:
    cdef readonly list counts
    cdef readonly double total
    cdef tuple _bounds

    @cython.locals(at=Py_ssize_t, last=Py_ssize_t)
    cpdef add(self, double value)
    @cython.locals(at=Py_ssize_t)
    cpdef add_counted(self, list counts, double total)


cdef class Buckets:
    cdef readonly tuple duration, first_token, rate, gap, overhead


cdef class Sums:
    cdef readonly tuple kind
    cdef readonly long long requests, retries, cold, prompt_tokens, completion_tokens, cached_tokens
    cdef readonly Histogram durations, queued, loads, first_tokens, rates, gaps, overheads
    cdef bytes _fields

    cpdef add(self, Entry entry, double latency_s, double rate)


cdef class TokenSums:
    cdef readonly long long prompt_tokens, completion_tokens


cdef class Ledger:
    cdef Buckets _buckets
    cdef bytes _good, _bad, _moment
    cdef object _known, _on_line
    cdef Py_ssize_t _max_rows, _max_lines, _lost_rows, _lost_lines
    cdef list _rows, _lines
    cdef dict _sums, _spent
    cdef bint _is_adding
    cdef ByteWriter _line
    cdef long long _second

    cpdef put_now(self, Entry entry)
    @cython.locals(kind=tuple, latency_s=double, rate=double, sums=Sums, fields=bytes, head=bytes, line=ByteWriter, start=Py_ssize_t)
    cpdef put(self, Entry entry, double now, double ended_at)
    cdef Sums _begin(self, tuple kind)
    @cython.locals(spent=TokenSums)
    cdef _spend(self, Entry entry)
    @cython.locals(lines=list)
    cdef bint _keep_line(self) except -1
    @cython.locals(rows=list, line=ByteWriter)
    cdef int _keep_row(self, Py_ssize_t start) except -1
    @cython.locals(second="long long", line=ByteWriter)
    cdef int _put_head(self, bytes head, double at) except -1
    @cython.locals(line=ByteWriter)
    cdef int _put_fields(self, Entry entry, bytes fields, double latency_s, double rate, double ended_at) except -1
    @cython.locals(line=ByteWriter)
    cdef int _put_pairs(self, bytes before, tuple pairs) except -1
    cdef int _put_known(self, bytes before, double value) except -1
