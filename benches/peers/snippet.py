"""How a library says what to time: an expression and the names in it, or that it has no way to do the case."""

from __future__ import annotations

import dataclasses
from typing import Any


class Unsupported(Exception):
    """The library has no sensible way to do this case."""


@dataclasses.dataclass
class Snippet:
    """A case as the library's user would write it; what `expression` evaluates to is the answer."""

    expression: str
    names: dict[str, Any]
