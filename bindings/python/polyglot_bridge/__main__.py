"""``python -m polyglot_bridge``: what this installation is and can do; ``bench``: a short race against NumPy."""

from __future__ import annotations

import argparse
import os
import sys

from . import _core, _race


def describe() -> str:
    """Version, CPU level, threads, cache and build, each with its reason."""
    info = _core._info()
    present = [name for name, has in info["cpu_features"].items() if has]
    absent = [name for name, has in info["cpu_features"].items() if not has]
    level = f"{info['level']}, the best that this CPU and this build share"
    why = f"the CPU has {', '.join(present) or 'nothing more'}" + (f"; not {', '.join(absent)}" if absent else "")
    ours, openmp = os.environ.get("POLYGLOT_NUM_THREADS"), os.environ.get("OMP_NUM_THREADS")
    if info["threads_from"] == "environment":
        source = f"POLYGLOT_NUM_THREADS={ours}"
    elif info["threads_from"] == "openmp":
        source = f"OMP_NUM_THREADS={openmp}"
    else:
        source = f"the {info['cores']} cores that the affinity mask and the cgroup quota leave to this process"
    if info["threads"] == info["most_threads"]:
        source += f"; more than {info['most_threads']} count as {info['most_threads']}"
    if ours is not None and info["threads_from"] != "environment":
        source += f"; POLYGLOT_NUM_THREADS={ours!r} is no positive number"
    if openmp is not None and info["threads_from"] == "default":
        source += f"; OMP_NUM_THREADS={openmp!r} does not begin with a positive number"
    cache, megabyte = info["cache"], 2**20
    limit = f"up to {cache['limit'] / megabyte:.0f} MB of freed results are kept"
    named = os.environ.get("POLYGLOT_CACHE_MB")
    limit += "" if named is None else f" (POLYGLOT_CACHE_MB={named})"
    file = _core.__file__ or "?"
    if ".abi3." in file or file.endswith("_core.pyd"):
        abi = "stable ABI, CPython 3.10 and later"
    else:
        abi = f"for CPython {sys.version_info[0]}.{sys.version_info[1]} only"
    import numpy as np

    try:
        import ml_dtypes

        bfloat16 = f"yes, ml_dtypes {ml_dtypes.__version__}"
    except ImportError:
        bfloat16 = "no: ml_dtypes is not installed"
    rows = [
        ("version", f"polyglot_bridge {info['version']}, NumPy {np.__version__}, Python {sys.version.split()[0]}"),
        ("CPU level", level),
        ("", why),
        ("threads", f"{info['threads']}, from {source}"),
        ("cache", f"{cache['buffers']} buffers, {cache['bytes'] / megabyte:.1f} MB; {limit}"),
        ("bfloat16", bfloat16),
        ("build", f"{info['target']}, {'release' if info['optimised'] else 'not optimised'}, {abi}"),
        ("features", ", ".join(info["features"])),
        ("module", file),
    ]
    return "\n".join(f"{name:<10} {text}" for name, text in rows)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m polyglot_bridge", description="What this installation is and can do."
    )
    commands = parser.add_subparsers(dest="command", metavar="command")
    bench = commands.add_parser("bench", help="a short race against NumPy", description="A short race against NumPy.")
    bench.add_argument("--plot", metavar="FILE.svg", help="draw a chart of it")
    bench.add_argument("--seconds", type=float, default=6.0, help="how long it takes, about (default: %(default)s)")
    options = parser.parse_args(arguments)
    if options.command is None:
        print(describe())
        return 0
    if not options.seconds > 0:
        bench.error("--seconds must be more than 0")
    if options.plot and not options.plot.endswith(".svg"):
        bench.error("--plot draws SVG: FILE.svg")
    _race.run(options.seconds, options.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
