"""Makes threadpoolctl see and limit this package, whichever of the two is imported first. Neither imports the other."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from . import _core

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType


def _register(threadpoolctl: Any) -> None:
    if not hasattr(threadpoolctl, "register"):  # before 3.3
        return

    class PolyglotBridgeController(threadpoolctl.LibController):  # type: ignore[misc]
        """The threads of polyglot_bridge. A limit holds for the calling thread, as `polyglot_bridge.threads` does."""

        user_api = "polyglot_bridge"
        internal_api = "polyglot_bridge"
        filename_prefixes = (os.path.basename(_core.__file__ or "_core").split(".")[0],)
        check_symbols = ("polyglot_bridge_get_num_threads",)

        def get_num_threads(self) -> int:
            return int(_core.get_num_threads())

        def set_num_threads(self, num_threads: int) -> None:
            _core._limit_threads(num_threads)

        def get_version(self) -> str:
            return str(_core.__version__)

    threadpoolctl.register(PolyglotBridgeController)


class _Watch:
    """Looks only at an import of threadpoolctl, lets it happen, registers, and is gone."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != "threadpoolctl":
            return None
        from importlib.util import find_spec

        if self in sys.meta_path:
            sys.meta_path.remove(self)
        spec = find_spec(name)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                run(module)
                _register(module)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def install() -> None:
    """Registers now where threadpoolctl is there already, else when it is imported."""
    threadpoolctl = sys.modules.get("threadpoolctl")
    if threadpoolctl is not None:
        _register(threadpoolctl)
    else:
        sys.meta_path.insert(0, _Watch())
