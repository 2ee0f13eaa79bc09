# C types for call.py when it is compiled.


cpdef to_chat(bytes body)

cpdef to_count(bytes body)

cdef dict _prompt(asked)

cdef dict _sampling(asked)
