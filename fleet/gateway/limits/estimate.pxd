# C types for estimate.py when it is compiled.

cimport cython


cpdef tuple asked_of(bytes body)

@cython.locals(longest="long long", choices="long long", prompt="long long", most="long long")
cpdef tuple estimate(Py_ssize_t size, tuple asked, object context, long long answer)
