# C types for waiter.py when it is compiled.

from cortex_site.http.deadline cimport Deadline


cdef class Waiter:
    cdef public object error
    cdef object _loop, _on_silence, _wake, _listener
    cdef Deadline _deadline

    cpdef listen(self, object listener, double until)
    cpdef put_off(self, double until)
    cpdef notify(self)
    cpdef fail(self, object error)
    cpdef close(self)
