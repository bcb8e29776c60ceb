"""Checks what a wheel promises about itself: `python tools/check_wheel.py polyglot_bridge-*.whl`.

Its size, what lies inside, and, in a process of its own, how much time of the CPU the import takes after NumPy's, whatever else
the machine does meanwhile, and that it starts no thread.
"""

import json
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

LICENSE = Path(__file__).resolve().parents[1] / "LICENSE"
MOST_BYTES = 2 * 10**6
MOST_MILLISECONDS = 5.0

IMPORT = """
import os, sys, time
sys.path.insert(0, sys.argv[1])
import numpy
count = lambda: len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 0
before = count()
begin = time.process_time()
import polyglot_bridge
print((time.process_time() - begin) * 1e3, count() - before, polyglot_bridge.__version__)
"""


def main(wheel):
    size = os.path.getsize(wheel)
    assert size < MOST_BYTES, f"{wheel} has {size} bytes, more than {MOST_BYTES}"
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        assert any(name.endswith("py.typed") for name in names), "no py.typed"
        # maturin takes it from beside pyproject.toml, so there is a copy of the crate's.
        licences = [archive.read(name) for name in names if name.endswith("/licenses/LICENSE")]
        assert licences == [LICENSE.read_bytes()], f"{len(licences)} licences, or another than {LICENSE}"
        assert not any("/tests/" in name for name in names), "tests in the wheel"
        boms = [name for name in names if "/sboms/" in name]
        assert boms, "no bill of materials"
        parts = [part["name"] for part in json.loads(archive.read(boms[0]))["components"]]
        assert "fearless_simd" in parts, parts
        archive.extractall(folder)
        times = []
        for _ in range(9):
            run = subprocess.run([sys.executable, "-c", IMPORT, folder], capture_output=True, text=True, check=True)
            milliseconds, threads, version = run.stdout.split()
            assert threads == "0", f"the import started {threads} threads"
            times.append(float(milliseconds))
    # The first also writes compiled files.
    assert min(times) < MOST_MILLISECONDS, f"the import takes {min(times):.1f} ms after NumPy"
    print(f"{version}: {size / 1e6:.2f} MB, imported in {min(times):.1f} ms after NumPy, {len(parts)} crates listed")


if __name__ == "__main__":
    main(sys.argv[1])
