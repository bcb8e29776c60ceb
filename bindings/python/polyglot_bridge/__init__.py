"""Fused machine-learning inference kernels for NumPy arrays.

Arrays go in, arrays come out: float16, float32, float64 and (with ml_dtypes) bfloat16, of any layout, each computed by
the same vectorised and threaded Rust kernels. The functions live in the extension module ``polyglot_bridge._core``.
"""

import sys as _sys

from . import _core
from ._core import *  # noqa: F403
from ._core import __version__

# Functions present themselves by the name that users import them by.
for _name in _core.__all__:
    _value = globals()[_name]
    if getattr(_value, "__module__", "").startswith(__name__):
        _value.__module__ = __name__
del _name, _value


def _register(threadpoolctl):
    from ._threadpoolctl import register

    register(threadpoolctl)


class _Watch:
    """Lets an import of threadpoolctl happen as it would, and makes this package known there once that is done."""

    def __init__(self):
        self._looking = set()

    def find_spec(self, name, path=None, target=None):
        if name != "threadpoolctl":
            return None
        from _thread import get_ident

        # Another hook may ask all hooks, as this one does.
        here = get_ident()
        if here in self._looking:
            return None
        self._looking.add(here)
        try:
            for finder in list(_sys.meta_path):
                find = None if finder is self else getattr(finder, "find_spec", None)
                spec = None if find is None else find(name, path, target)
                if spec is not None:
                    break
            else:
                return None
        finally:
            self._looking.discard(here)
        if hasattr(spec.loader, "exec_module"):
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader:
    """Another loader, whose module is told of this package once it is there."""

    def __init__(self, loader):
        self._loader = loader

    def __getattr__(self, name):
        if name == "_loader":
            raise AttributeError(name)
        return getattr(self._loader, name)

    def create_module(self, spec):
        create = getattr(self._loader, "create_module", None)
        return None if create is None else create(spec)

    def exec_module(self, module):
        # As if we had not been there, for whoever asks the module where it is from.
        module.__spec__.loader = module.__loader__ = self._loader
        self._loader.exec_module(module)
        _register(module)


# threadpoolctl shall see and limit this package whichever of the two is imported first, and when it is imported or
# reloaded again; neither imports the other.
if "threadpoolctl" in _sys.modules:
    _register(_sys.modules["threadpoolctl"])
# Where this module is itself reloaded, or imported anew, there is one watch still.
_sys.meta_path[:] = [_Watch(), *(_finder for _finder in _sys.meta_path if type(_finder).__module__ != __name__)]

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
