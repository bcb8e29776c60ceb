"""Fused machine-learning inference kernels for NumPy arrays.

Arrays go in, arrays come out: float16, float32, float64 and (with ml_dtypes) bfloat16, of any layout, each computed by
the same vectorised and threaded Rust kernels. The functions live in the extension module ``polyglot_bridge._core``.
"""

from ._core import *  # noqa: F403
from ._core import __all__, __version__

# Functions present themselves by the name that users import them by.
for _name in __all__:
    _value = globals()[_name]
    if getattr(_value, "__module__", "").startswith(__name__):
        _value.__module__ = __name__
del _name, _value
