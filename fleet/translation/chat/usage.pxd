# C types for usage.py when it is compiled.


cdef class UsageTotals:
    cdef dict _fields
    cdef object _usage

    cpdef merge(self, usage)


cdef _usage_of(dict totals)

cdef _detail(details, str name)

cdef _count(value)
