# C types for chat.py when it is compiled.

cimport cython

from ext.peek cimport Peek
from fleet.gateway.dialects.chat_body cimport answer_lengths, scan


@cython.locals(seen=Peek, hide_usage=bint)
cpdef decode_chat(bytes body, str path, object needs)
