# C types for unread.py when it is compiled.

cimport cython


cdef class UnreadFields:
    cdef object _tolerated
    cdef _Kind _body

    cpdef tuple of(self, body)
    @cython.locals(kinds=_Kinds, fields=dict)
    cdef _object(self, dict value, _Kind kind, str where, dict names)
    cdef _note(self, str path, dict names)
    @cython.locals(kind=_Kind)
    cdef _within(self, value, _Kinds kinds, str path, dict names)


cdef str _path(str where, str name)


cdef class _Kind:
    cdef readonly dict fields
    cdef readonly bint forbids
    cdef readonly str tag
    cdef readonly object tag_field


cdef class _Kinds:
    cdef dict _by_tag
    cdef object _tag_field

    cdef _Kind of(self, dict value)
