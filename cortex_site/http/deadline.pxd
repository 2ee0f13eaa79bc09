# C types for deadline.py when it is compiled.


cdef class Deadline:
    cdef public double due
    cdef double _fires_at
    cdef object _loop, _on_due, _timer

    cpdef set(self, double due)
    cpdef cancel(self)
