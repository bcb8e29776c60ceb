"""Types of the extension module: what the package hands on, and what its own Python files call."""

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
