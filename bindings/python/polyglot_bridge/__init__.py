"""Fused machine-learning inference kernels for NumPy arrays.

Arrays go in, arrays come out: float16, float32, float64 and (with ml_dtypes) bfloat16, of any layout, each computed by
the same vectorised and threaded Rust kernels. The functions live in the extension module ``polyglot_bridge._core``.
"""

from . import _core, _threadpoolctl
from ._core import *  # noqa: F403
from ._core import __version__

# Functions present themselves by the name that users import them by.
for _name in _core.__all__:
    _value = globals()[_name]
    if getattr(_value, "__module__", "").startswith(__name__):
        _value.__module__ = __name__
del _name, _value

_threadpoolctl.install()

# What is written in Python, and imported when it is first asked for: name and module; "" is the module itself.
_LATER = {
    "Explanation": "_explain",
    "explain": "_explain",
    "from_sklearn": "_convert",
    "load_file": "_safetensors",
    "models": "",
    "save_file": "_safetensors",
}

__all__ = sorted({*_core.__all__, *_LATER} - {"models"})


def __getattr__(name: str) -> object:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    if not _LATER[name]:
        return import_module(f"{__name__}.{name}")
    value = getattr(import_module(f"{__name__}.{_LATER[name]}"), name)
    value.__module__ = __name__
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})
