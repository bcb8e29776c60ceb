"""What the package tells about itself: explain, the command line, the race."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import xml.etree.ElementTree

import numpy as np
import pytest
from conftest import LAYOUTS, normal

import polyglot_bridge as pb

F32 = np.dtype("float32")
X = normal((6, 8), F32)


def python(*arguments, **environment):
    import os

    result = subprocess.run([sys.executable, *arguments], env={**os.environ, **environment}, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize(("layout", "copies"), [
    ("c", 0), ("transposed", 0), ("sliced", 0), ("rows_apart", 0), ("negative", 0), ("read_only", 0), ("broadcast", 0),
    ("swapped", 1), ("misaligned", 1),
])
@pytest.mark.parametrize("f", [pb.relu, pb.softmax], ids=lambda f: f.__name__)
def test_at_most_one_copy(f, layout, copies):
    x = LAYOUTS[layout](X)
    explanation = pb.explain(f, x)
    assert explanation.value.tobytes() == f(x).tobytes()
    assert len(explanation.copies) == copies, explanation
    assert explanation.copied_bytes == copies * X.nbytes
    if copies:
        assert explanation.copies[0].startswith("x, as ") and {"swapped": "swapped", "misaligned": "aligned"}[layout] in explanation.copies[0]


def test_copies_of_other_kinds():
    weight = normal((8, 4), F32)
    assert pb.explain(pb.linear, X, weight.T.copy().T).copies == ()
    assert pb.explain(pb.linear, X.tolist(), weight).copies == ("x, from a list: 384 bytes", "x, from float64 to float32: 192 bytes")
    assert pb.explain(pb.linear, X, weight, np.ones(8, F32)[::2]).copies == ("the operand of shape (4,), to have its elements side by side: 16 bytes",)
    out = np.zeros((4, 12), F32).T[::2]
    explanation = pb.explain(pb.linear, X, weight, out=out)
    assert len(explanation.copies) == 1 and "into out" in explanation.copies[0] and np.array_equal(out, pb.linear(X, weight))
    x = X.copy()
    assert pb.explain(pb.relu, x, out=x).result == "written over an input, in place of 192 bytes"
    assert "shares memory" in pb.explain(pb.relu, x[:, 1:], out=x[:, :-1]).copies[0]
    assert pb.explain(pb.relu, X.astype("f4")).computed_in == "float32"
    assert pb.explain(pb.relu, X.astype("f2")).computed_in == "float32"
    assert pb.explain(pb.relu, X.astype("f8")).computed_in == "float64"


def test_plans_of_products():
    row, weight = normal((1, 2000), F32), normal((2000, 40), F32)
    tile = r", [0-9]+ x [0-9]+ micro-kernel"
    for f, x, w, plan in [
        (pb.matmul, row, weight[:, :1].copy(), "dot product"),
        (pb.linear, row, weight.T.copy().T, "gemv, weight transposed in registers"),
        (pb.linear, normal((1, 1200), F32), normal((1200, 4000), F32), "gemv, weight read in place"),
        (pb.linear, normal((3, 2000), F32), weight, "weight read in place" + tile),
        (pb.linear, normal((5, 2000), F32), weight[:, ::2], "packed for each block" + tile),
        (pb.matmul, normal((400, 2000), F32), weight[:, ::2], "packed once" + tile),
    ]:
        explanation = pb.explain(f, x, w)
        assert len(explanation.plans) == 1 and re.fullmatch(plan, explanation.plans[0]), explanation
    layer = pb.explain(pb.Linear(weight), normal((2, 2000), F32))
    assert re.fullmatch("weight packed before the call" + tile, layer.plans[0]) and layer.plans[0] in str(layer)
    none = pb.explain(pb.softmax, X)
    assert none.plans == () and "plan " not in str(none)


def test_threads_and_the_gil():
    large = normal((2000, 1000), F32)
    with pb.threads(3):
        explanation = pb.explain(pb.softmax, large)
    assert explanation.threads == 3 and explanation.blocks > 3 and explanation.gil_released
    assert "cache" in explanation.result
    with pb.threads(1):
        assert pb.explain(pb.softmax, large).threads == 1
    small = pb.explain(pb.softmax, X)
    assert (small.threads, small.blocks, small.gil_released) == (1, 1, False) and small.result == "a new array of 192 bytes"


def test_layers_and_text():
    network = pb.Sequential([pb.Linear(normal((8, 4), F32)), "softmax"])
    explanation = pb.explain(network, X)
    assert explanation.call == "Sequential" and "2 layers" in explanation.kernel
    text = str(pb.explain(network[0], X))
    for word in ("Linear", "packed weight", "CPU level", "threads", "copies", "none", "one pass", "float32"):
        assert word in text
    assert pb.explain(network[1], X).call == "softmax"
    public = [name for name in pb.__all__ if name.islower() and callable(getattr(pb, name))]
    with pytest.raises(TypeError, match="explain: f must be"):
        pb.explain(np.sum, X)
    with pytest.raises(TypeError, match="explain: f must be"):
        pb.explain(3)
    with pytest.raises(TypeError, match="explain: f must be"):
        pb.explain(pb.Linear, np.ones((2, 2)))
    assert pb.explain(pb.cache_info).result == "a Python object"
    with pytest.raises(TypeError):
        pb.explain(pb.softmax, "text")
    assert len(public) > 30


def test_it_records_its_own_thread_alone():
    x, stop = X[::2], threading.Event()

    def work():
        while not stop.is_set():
            pb.relu(X.astype(">f4"))

    thread = threading.Thread(target=work)
    thread.start()
    try:
        for _ in range(200):
            assert pb.explain(pb.relu, x).copies == ()
    finally:
        stop.set()
        thread.join()


def test_what_the_module_prints():
    text = python("-m", "polyglot_bridge", POLYGLOT_NUM_THREADS="3", POLYGLOT_CACHE_MB="7")
    for word in (pb.__version__, np.__version__, "CPU level", "the CPU has", "3, from POLYGLOT_NUM_THREADS=3", "up to 7 MB", "features", "std", "parallel"):
        assert word in text, text
    text = python("-m", "polyglot_bridge", POLYGLOT_NUM_THREADS="many")
    assert "affinity mask" in text and "'many' is no positive number" in text


def test_the_race(tmp_path):
    chart = tmp_path / "chart.svg"
    text = python("-m", "polyglot_bridge", "bench", "--seconds", "0.05", "--plot", str(chart))
    assert "ratio" in text and "softmax" in text and "geometric mean" in text
    root = xml.etree.ElementTree.parse(chart).getroot()
    assert root.tag.endswith("svg") and len(list(root)) > 20
    for bad in (["--seconds", "0"], ["--plot", "chart.png"], ["--nonsense"]):
        assert subprocess.run([sys.executable, "-m", "polyglot_bridge", "bench", *bad], capture_output=True, timeout=60).returncode == 2
