# C types for answer.py when it is compiled.

from fleet.translation.events cimport Grammar


cdef class _Answer:
    cdef Grammar _grammar
    cdef str _id
    cdef object _usage
    cdef list _fragments, _content
    cdef dict _stop

    cdef dict message(self, str model)
    cdef add(self, event)
    cdef _add_block(self, event)
    cdef _speak(self, make, str field, str text, bint begins)


cpdef dict message_of(str id_, str model, usage, content=*, dict stop=*)
