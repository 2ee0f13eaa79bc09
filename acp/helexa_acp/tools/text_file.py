"""Text with the encoding of its file, so that all that was read can be written back byte for byte.

UTF-8 is tried first, then UTF-16 with its byte order mark, then windows-1252, whose letters are those of most
other files, then latin-1, in which every byte is a character.
"""

from __future__ import annotations

import codecs
from dataclasses import dataclass, replace

from helexa_acp.tools.errors import ToolError

_MARKS = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
_SNIFFED_BYTES = 8192


@dataclass(frozen=True, slots=True)
class FileText:
    """A text, and the encoding in which its file holds it. A byte order mark is part of the text."""

    text: str
    encoding: str = "utf-8"

    @property
    def data(self) -> bytes:
        """The bytes of the file. Raises ToolError if the encoding lacks a character of the text."""
        try:
            return self.text.encode(self.encoding)
        except UnicodeEncodeError as error:
            lacking = error.object[error.start]
            raise ToolError(
                f"the file is in {self.encoding}, which has no {lacking!a}; write it with other characters"
            ) from None

    @property
    def note(self) -> str:
        """What to tell of the encoding: nothing of UTF-8, which is expected."""
        return "" if self.encoding == "utf-8" else f" ({self.encoding})"

    def with_text(self, text: str) -> FileText:
        return replace(self, text=text)


def decode(data: bytes) -> FileText | None:
    """Return the text of a file, or None if it is not a text file."""
    marked = _MARKS.get(data[:2])
    if marked is not None:
        return _decoded(data, marked)
    if b"\0" in data[:_SNIFFED_BYTES]:
        return None
    found = (_decoded(data, encoding) for encoding in ("utf-8", "windows-1252", "latin-1"))
    return next((text for text in found if text is not None), None)


def _decoded(data: bytes, encoding: str) -> FileText | None:
    try:
        return FileText(data.decode(encoding), encoding)
    except UnicodeDecodeError:
        return None
