"""Types of the extension module, for the package's own Python files; those of its public names are in __init__.pyi."""

from typing import Any

import numpy as np
import numpy.typing as npt

from polyglot_bridge import (
    Linear as Linear,
    RowOperation as RowOperation,
    Sequential as Sequential,
)

def _packed_linear(
    panels: npt.NDArray[np.uint8],
    shape: tuple[int, int],
    bias: npt.NDArray[Any] | None,
    activation: str | None,
    dtype: str,
    layout: int,
) -> Linear: ...
def _info() -> dict[str, Any]: ...
def _record_start() -> None: ...
def _record_stop() -> list[tuple[str, str, int, int]]: ...
def _limit_threads(n: int) -> None: ...
def __getattr__(name: str) -> Any: ...
