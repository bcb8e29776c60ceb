"""Runs the tests against a built wheel on each CPython that this machine has from 3.10 on, with the newest NumPy there is
for it, and on the oldest of them with the oldest NumPy that the wheel claims:
`python tools/test_pythons.py FOLDER WHEEL [TEST ...]`. Environments are made in FOLDER, and kept.
"""

import glob
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

VERSIONS = ["3.10", "3.11", "3.12", "3.13", "3.14", "3.14t"]
TESTS = Path(__file__).parent.parent / "bindings" / "python" / "tests"


def find(version):
    """A Python of this version that runs: on the path, or among pyenv's."""
    root = os.environ.get("PYENV_ROOT", os.path.expanduser("~/.pyenv"))
    pattern = f"{root}/versions/{version.rstrip('t')}.*{'t' if version.endswith('t') else '[0-9]'}/bin/python"
    for path in [shutil.which(f"python{version}"), *sorted(glob.glob(pattern))]:
        if path and subprocess.run([path, "-c", ""], capture_output=True).returncode == 0:
            return path
    return None


def oldest_numpy(wheel):
    """The NumPy that the wheel's own metadata asks for at least."""
    with zipfile.ZipFile(wheel) as archive:
        metadata = next(archive.read(name).decode() for name in archive.namelist() if name.endswith("/METADATA"))
    return re.search(r"^Requires-Dist: numpy>=(\S+)", metadata, flags=re.MULTILINE)[1]


def main(folder, wheel, *tests):
    pythons = {version: path for version in VERSIONS if (path := find(version))}
    # A wheel for the stable ABI is none for free-threaded builds.
    if "abi3" in wheel:
        pythons.pop("3.14t", None)
    assert pythons, "no CPython from 3.10 on"
    oldest = oldest_numpy(wheel)
    runs = [(version, None) for version in pythons]
    if "3.10" in pythons:
        runs.insert(0, ("3.10", oldest))
    for version, numpy in runs:
        name = f"numpy-{numpy}" if numpy else "newest"
        print(f"== CPython {version}, NumPy {numpy or 'newest'}", flush=True)
        environment = Path(folder).resolve() / f"{version}-{name}"
        python = environment / ("Scripts" if os.name == "nt" else "bin") / "python"
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        if not python.exists():
            subprocess.run([pythons[version], "-m", "venv", environment], check=True)
        packages = [f"numpy=={numpy}.*", "scipy<1.12"] if numpy else ["numpy", "scipy"]
        subprocess.run([*install, *packages, "pytest", "hypothesis", "ml_dtypes", "threadpoolctl"], check=True)
        subprocess.run([*install, "--force-reinstall", "--no-deps", wheel], check=True)
        command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
        subprocess.run(command, cwd=TESTS, check=True)
    print(f"{len(runs)} runs passed: {', '.join(pythons)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
