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


def __getattr__(name: str):
    """Load `polyglot_bridge.models` when it is first touched: most users never do."""
    if name == "models":
        import importlib

        return importlib.import_module(__name__ + ".models")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), "models"})
