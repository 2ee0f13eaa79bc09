# C types for conversation.py when it is compiled.


cpdef list chat_messages(system, turns)

cdef list _system(content)

cdef list _user(list content, str path, set calls)

cdef dict _assistant(list content, str path, set calls)
