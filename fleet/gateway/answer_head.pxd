# C types for answer_head.py when it is compiled.

cimport cython

from ext.ledger cimport Entry
from ext.writer cimport ByteWriter

cdef ByteWriter _writer


@cython.locals(line=ByteWriter, name=str, text=str)
cpdef bytes answer_lines(bytes content_type, Entry entry, object wait_s, tuple ignored)

cdef _put(bytes before, str text)
