"""Runs the examples that polyglot-bridge 0.2.0 documents, unchanged, against the installed package, and the behaviours that
programs may rely on (drop_in_behaviours.py): results, types, errors and words in them. Where this Python can import the old
package, that has to behave so too, and the two are compared function by function: `python tools/drop_in.py
polyglot_bridge-0.2.0-*.whl`. `make drop-in` fetches the wheel.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile

import numpy as np

# What the examples take for granted: a caller's own arrays.
SETUP = """
import numpy as np
generator = np.random.default_rng(0)
weights1, bias1 = generator.standard_normal((64, 32)), generator.standard_normal(32)
weights2, bias2 = generator.standard_normal((32, 10)), generator.standard_normal(10)
batch_data = generator.standard_normal((100, 64))
"""

# One call of each function of 0.2.0, run in a process for each package.
CALLS = """
import json, sys
import numpy as np
import polyglot_bridge as pb
g = np.random.default_rng(1)
x, w, b, m = g.standard_normal((6, 5)), g.standard_normal((5, 4)), g.standard_normal(4), (g.random((6, 5)) > 0.5)
f = lambda a: a.astype(np.float32)
calls = {
    "sum_of_squares": lambda: pb.sum_of_squares([1.0, 2.0, 3.0]),
    "matrix_multiply": lambda: pb.matrix_multiply(x.tolist(), w.tolist()),
    "parallel_transform": lambda: pb.parallel_transform([1.0, 2.0], 2.5),
    "matmul_numpy": lambda: pb.matmul_numpy(x, w),
    "matmul_numpy_f32": lambda: pb.matmul_numpy_f32(f(x), f(w)),
    "parallel_map_numpy": lambda: pb.parallel_map_numpy(x.ravel(), 2.5),
    "parallel_map_numpy_f32": lambda: pb.parallel_map_numpy_f32(f(x).ravel(), 2.5),
    "sum_of_squares_numpy": lambda: pb.sum_of_squares_numpy(x.ravel()),
    "sum_of_squares_numpy_f32": lambda: pb.sum_of_squares_numpy_f32(f(x).ravel()),
    "relu_numpy": lambda: pb.relu_numpy(x.ravel()),
    "relu_numpy_f32": lambda: pb.relu_numpy_f32(f(x).ravel()),
    "sigmoid_numpy": lambda: pb.sigmoid_numpy(x.ravel()),
    "sigmoid_numpy_f32": lambda: pb.sigmoid_numpy_f32(f(x).ravel()),
    "fused_linear": lambda: pb.fused_linear(x, w, b),
    "fused_linear_f32": lambda: pb.fused_linear_f32(f(x), f(w), f(b)),
    "fused_linear_relu": lambda: pb.fused_linear_relu(x, w, b),
    "fused_linear_relu_f32": lambda: pb.fused_linear_relu_f32(f(x), f(w), f(b)),
    "fused_dropout_add": lambda: pb.fused_dropout_add(x, x * 2, m.astype(x.dtype), 2.0),
    "fused_layer_norm": lambda: pb.fused_layer_norm(x, 1e-5),
    "fused_softmax": lambda: pb.fused_softmax(x),
}
results = {}
for name, call in calls.items():
    if hasattr(pb, name):
        try:
            results[name] = np.asarray(call(), np.float64).ravel().tolist()
        except Exception as error:
            results[name] = repr(error)
names = sorted(name for name in dir(pb) if not name.startswith("_") and callable(getattr(pb, name)))
json.dump({"version": getattr(pb, "__version__", "?"), "results": results, "names": names}, sys.stdout)
"""


def examples(text):
    """The code blocks of a README that import nothing strange and are no signatures."""
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    return [block for block in blocks if "→" not in block]


def run(path):
    command = [sys.executable, "-c", f"import sys; sys.path[:0] = {path!r}\n{CALLS}"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    return json.loads(result.stdout) if result.returncode == 0 else None


def behaviours(path):
    """Whether a package behaves as programs for 0.2.0 may expect."""
    script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "drop_in_behaviours.py")
    program = f"import runpy, sys; sys.path[:0] = {path!r}; runpy.run_path({script!r}, run_name='__main__')"
    return subprocess.run([sys.executable, "-c", program], timeout=300).returncode == 0


def main(wheel):
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
        readme = next(archive.read(name).decode() for name in archive.namelist() if name.endswith("METADATA"))
        blocks, scope = examples(readme), {}
        exec(SETUP, scope)
        for block in blocks:
            print("running:", block.strip().splitlines()[0])
            exec(compile(block, "example of 0.2.0", "exec"), scope)
        assert np.allclose(scope["predictions"].sum(axis=1), 1), "the pipeline's rows sum to 1"
        print(f"{len(blocks)} documented examples ran unchanged")
        assert behaviours([]), "programs for 0.2.0 would find something else"
        new, old = run([]), run([folder])
        assert new is not None
        if old is None:
            print("this Python cannot import the old wheel: its results are not compared")
            return
        assert behaviours([folder]), "0.2.0 itself does not behave so"
        missing = [name for name in old["names"] if name not in new["names"]]
        assert not missing, f"names of {old['version']} that are gone: {missing}"
        for name, expected in old["results"].items():
            found = new["results"][name]
            same = isinstance(found, list) and isinstance(expected, list) and np.allclose(found, expected, rtol=1e-5)
            assert same, f"{name}: {found} where 0.2.0 gives {expected}"
        print(f"{len(old['results'])} functions give what 0.2.0 gives")


if __name__ == "__main__":
    main(sys.argv[1])
