from __future__ import annotations

from typing import Annotated

from pydantic import StringConstraints

# A secret that is sent in a header. Anything else could end the header's line and begin another.
Secret = Annotated[str, StringConstraints(min_length=1, pattern=r"^[!-~]+$")]
