# C types for chat_body.py when it is compiled.

cimport cython

from ext.peek cimport Peek, peek



cpdef Peek scan(bytes body)

@cython.locals(named="long long")
cpdef tuple answer_lengths(Peek seen)
