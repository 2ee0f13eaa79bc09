"""Files that have their name once all of them is on disk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkstemp
from typing import IO

UNFINISHED = ".part"  # how names of others end


@contextmanager
def written(path: Path) -> Iterator[IO[bytes]]:
    """Open a file to be written, which takes the place of `path` at the end. Raises OSError."""
    descriptor, draft = mkstemp(dir=path.parent, suffix=UNFINISHED)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(descriptor)
        Path(draft).replace(path)
    except BaseException:
        Path(draft).unlink()
        raise
