# C types for draft.py when it is compiled.

cimport cython

from ext.ledger cimport Entry

cdef bytes _FINISH, _SPACES, _LETTERS
cdef Py_ssize_t _MAX_WORD


cdef class RecordDraft:
    cdef readonly Entry entry
    cdef public object usage
    cdef public long long events, prompt_estimate

    cpdef note_answer(self, bytes body)
    cdef _note_timings(self, object timings)
    cdef _note_usage(self, bytes data)
    @cython.locals(at=Py_ssize_t, reason=bytes)
    cdef _note_finish(self, bytes data)
    @cython.locals(counted="long long")
    cpdef long long charge(self, str outcome, long long reserved) except? -1
    @cython.locals(entry=Entry)
    cpdef Entry ended(self, str outcome, int status, str error_code)


@cython.locals(start=Py_ssize_t, end=Py_ssize_t, most=Py_ssize_t)
cdef bytes _word(bytes data, Py_ssize_t at)

cdef Py_ssize_t _after_spaces(bytes data, Py_ssize_t at) except -1
