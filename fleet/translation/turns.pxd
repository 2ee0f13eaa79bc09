# C types for turns.py when it is compiled.


cpdef list in_chat_order(list messages)

cdef bint _is_plain(list messages) except -1
