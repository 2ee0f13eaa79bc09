# C types for router.py when it is compiled.

cimport cython

cdef double _ANSWER_S, _SLOWDOWN_S


cdef class Route:
    cdef readonly object node, model
    cdef readonly tuple waits_s


cdef class Facts:
    cdef readonly str model
    cdef readonly object in_flight, exclude, avoid, saved_tokens, draw
    cdef readonly long long prompt_tokens


@cython.locals(replicas=tuple, candidates=list, loads=list, best=list, waits=list, at=Py_ssize_t, limit=double, least=double, cost=double)
cpdef Route choose(object snapshot, Facts facts)

@cython.locals(possible=list)
cdef list _possible(tuple replicas, Facts facts)

@cython.locals(first=Py_ssize_t, second=Py_ssize_t, count=Py_ssize_t, drawn=list)
cdef list _drawn(object snapshot, tuple replicas, Facts facts)

@cython.locals(names=list, others=list, at=Py_ssize_t)
cdef list _holders(object snapshot, list drawn, Facts facts)

@cython.locals(now="long long", said="long long")
cdef long long _load(object node, object view, Facts facts) except? -1

@cython.locals(others=list, compared=list)
cdef double _cached_up_to(list candidates, list loads, Facts facts) except? -1

cdef long long _prefill(object node, long long load, double limit, Facts facts) except? -1

@cython.locals(most="long long", cost=double)
cdef double _cost(object view, long long load, long long prefill) except? -1
