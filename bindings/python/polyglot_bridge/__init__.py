"""Fused machine-learning inference kernels for NumPy arrays.

Arrays go in, arrays come out: float16, float32, float64 and (with ml_dtypes) bfloat16, of any layout, each computed by
the same vectorised and threaded Rust kernels. The functions live in the extension module ``polyglot_bridge._core``.
"""

import sys as _sys

from . import _core
from ._core import *  # noqa: F403
from ._core import __version__

# Where this module is reloaded, or imported anew, there is one finder of ours: see the end.
_sys.meta_path[:] = [_finder for _finder in _sys.meta_path if type(_finder).__module__ != __name__]

# Functions present themselves by the name that users import them by.
for _name in _core.__all__:
    _value = globals()[_name]
    if getattr(_value, "__module__", "").startswith(__name__):
        _value.__module__ = __name__
del _name, _value


class _Watch:
    """Looks only at an import of threadpoolctl, lets it happen, makes this package known there, and is gone."""

    def find_spec(self, name, path=None, target=None):
        if name != "threadpoolctl":
            return None
        from importlib.util import find_spec

        if self in _sys.meta_path:
            _sys.meta_path.remove(self)
        spec = find_spec(name)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def exec_module(module):
                run(module)
                from ._threadpoolctl import register

                register(module)

            spec.loader.exec_module = exec_module
        return spec


# threadpoolctl shall see and limit this package whichever of the two is imported first; neither imports the other.
if "threadpoolctl" in _sys.modules:
    from ._threadpoolctl import register as _register

    _register(_sys.modules["threadpoolctl"])
else:
    _sys.meta_path.insert(0, _Watch())

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
