"""What a call costs beside its work: tiny calls of two installed copies of the package, in turn.

Each argument is a folder that holds `polyglot_bridge`, as a wheel unpacked with `python -m zipfile -e` makes it::

    python benches/small_calls.py before after

Every round times each copy in a process of its own, the other one first every second time; the best of all rounds counts, in
nanoseconds a call, and the ratio before / after: above 1 the second copy is faster. One thread. Needs NumPy.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import timeit

# As many as it takes to meet each copy at its best on a shared machine, whose clock changes from second to second.
ROUNDS = 40


def cases(pb, np):
    """Calls by name."""
    x, out = np.ones(16, np.float32), np.empty(16, np.float32)
    row, square, four = np.ones((1, 10), np.float32), np.ones((4, 4), np.float32), np.ones(4, np.float32)
    wide, weight, bias = np.ones((1, 64), np.float32), np.ones((64, 32), np.float32), np.ones(32, np.float32)
    many, head, large = (
        np.ones((100, 4, 4), np.float32),
        np.ones((1, 1, 4, 8), np.float32),
        np.ones(100_000, np.float32),
    )
    layer = pb.Linear(weight, bias)
    return {
        "relu of 16": lambda: pb.relu(x),
        "relu of 16, out=": lambda: pb.relu(x, out=out),
        "softmax 1x10": lambda: pb.softmax(row),
        "layer_norm 4x4": lambda: pb.layer_norm(square, four, four),
        "linear 1x64x32": lambda: pb.linear(wide, weight, bias),
        "Linear 1x64x32": lambda: layer(wide),
        "matmul 4x4": lambda: pb.matmul(square, square),
        "matmul 100 of 4x4": lambda: pb.matmul(many, many),
        "attention 4x4x8": lambda: pb.attention(head, head, head),
        "relu of 100,000": lambda: pb.relu(large),
    }


def measure(folder: str) -> None:
    """Print the nanoseconds of each call for the copy in `folder`, as JSON."""
    sys.path.insert(0, folder)
    import numpy as np

    import polyglot_bridge as pb

    assert os.path.abspath(pb.__file__).startswith(os.path.abspath(folder)), pb.__file__
    best = {}
    for name, call in cases(pb, np).items():
        call()
        number = max(1, int(1e-3 / timeit.timeit(call, number=1)))
        best[name] = min(timeit.repeat(call, number=number, repeat=60)) / number * 1e9
    print(json.dumps(best))


def main(folders: list[str]) -> None:
    """Time both copies in turn and print a table."""
    environment = {**os.environ, "POLYGLOT_NUM_THREADS": "1"}
    best: dict[str, dict[str, float]] = {folder: {} for folder in folders}
    for turn in range(ROUNDS):
        for folder in folders if turn % 2 else folders[::-1]:
            command = [sys.executable, __file__, "--measure", folder]
            for name, found in json.loads(subprocess.check_output(command, env=environment)).items():
                best[folder][name] = min(found, best[folder].get(name, found))
    before, after = (best[folder] for folder in folders)
    print(f"{'':20}{'before, ns':>12}{'after, ns':>12}{'ratio':>8}")
    for name in before:
        print(f"{name:20}{before[name]:12.0f}{after[name]:12.0f}{before[name] / after[name]:8.2f}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    measure(sys.argv[2]) if sys.argv[1] == "--measure" else main(sys.argv[1:])
