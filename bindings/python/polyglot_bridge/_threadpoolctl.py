"""The controller through which threadpoolctl sees and limits this package: imported once that is there."""

from __future__ import annotations

import os
from typing import Any

from . import _core


def register(threadpoolctl: Any) -> None:
    """Makes it known to threadpoolctl."""
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
