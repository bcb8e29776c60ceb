"""What the tests share: dtypes, layouts, and references computed in float64."""

from __future__ import annotations

import numpy as np
import pytest

try:
    import ml_dtypes

    BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
except ImportError:
    BFLOAT16 = None

DTYPES = [np.dtype(name) for name in ("float16", "float32", "float64")] + ([BFLOAT16] if BFLOAT16 is not None else [])
SHAPES = [(), (1,), (7,), (0,), (3, 0), (0, 3), (1, 1), (5, 17), (33, 8), (2, 3, 31), (3, 1, 64), (2, 3, 4, 5)]


def unit_roundoff(dtype: np.dtype) -> float:
    """Half the distance from 1 to the next number."""
    return {"bfloat16": 2.0**-8, "float16": 2.0**-11, "float32": 2.0**-24, "float64": 2.0**-53}[dtype.name]


def compute_roundoff(dtype: np.dtype) -> float:
    return max(unit_roundoff(dtype), 0.0) if dtype.itemsize > 2 else 2.0**-24


def smallest(dtype: np.dtype) -> float:
    """The smallest subnormal number."""
    return {"bfloat16": 2.0**-133, "float16": 2.0**-24, "float32": 2.0**-149, "float64": 5e-324}[dtype.name]


def assert_close(actual, exact, dtype, *, ulps: float, absolute=0.0):
    """`actual` is within `ulps` units of the compute type of `exact`, plus the rounding to `dtype`."""
    actual = np.asarray(actual)
    assert actual.dtype == dtype
    exact = np.asarray(exact, np.float64)
    assert actual.shape == exact.shape
    wide = actual.astype(np.float64)
    assert np.array_equal(np.isnan(wide), np.isnan(exact))
    unit = 2 * compute_roundoff(dtype) * ulps + (unit_roundoff(dtype) * 1.01 if dtype.itemsize == 2 else 0.0)
    with np.errstate(invalid="ignore", over="ignore"):
        bound = np.abs(exact) * unit + np.maximum(absolute, smallest(dtype))
        error = np.where(wide == exact, 0.0, np.abs(wide - exact))
    error, bound = np.nan_to_num(error), np.nan_to_num(bound)
    worst = np.argmax(error - bound) if error.size else None
    assert error.size == 0 or np.all(error <= bound), (wide.flat[worst], exact.flat[worst])


def normal(shape, dtype, seed=0, scale=1.0):
    return np.asarray(np.random.default_rng(seed).standard_normal(shape) * scale).astype(dtype)


# Each takes an array and gives one that is equal, laid out otherwise.
def _c(x):
    return np.ascontiguousarray(x).reshape(x.shape)


def _fortran(x):
    return np.asfortranarray(x).reshape(x.shape, order="A") if x.ndim else x


def _transposed(x):
    return np.ascontiguousarray(x.T).T if x.ndim else x


def _sliced(x):
    if not x.ndim:
        return x
    big = np.zeros([3 * n + 1 for n in x.shape], x.dtype)
    view = big[tuple(slice(1, 1 + 3 * n, 3) for n in x.shape)]
    view[...] = x
    return view


def _rows_apart(x):
    if not x.ndim:
        return x
    big = np.zeros([2 * n for n in x.shape[:-1]] + list(x.shape[-1:]), x.dtype)
    view = big[tuple(slice(0, 2 * n, 2) for n in x.shape[:-1])]
    view[...] = x
    return view


def _negative(x):
    turn = tuple(slice(None, None, -1) for _ in x.shape)
    return np.ascontiguousarray(x[turn])[turn] if x.ndim else x


def _swapped(x):
    return x.astype(x.dtype.newbyteorder()) if x.dtype != BFLOAT16 else x


def _misaligned(x):
    raw = np.zeros(x.nbytes + 1, np.uint8)
    view = raw[1:].view(x.dtype).reshape(x.shape)
    view[...] = x
    return view


def _read_only(x):
    x = x.copy()
    x.flags.writeable = False
    return x


def _broadcast(x):
    """Equal along the first axis: a stride of zero."""
    return np.broadcast_to(x[:1], x.shape) if x.ndim and x.shape[0] else x


LAYOUTS = {
    "c": _c,
    "fortran": _fortran,
    "transposed": _transposed,
    "sliced": _sliced,
    "rows_apart": _rows_apart,
    "negative": _negative,
    "swapped": _swapped,
    "misaligned": _misaligned,
    "read_only": _read_only,
    "broadcast": _broadcast,
}
WRITEABLE = {name: f for name, f in LAYOUTS.items() if name not in ("swapped", "read_only", "broadcast")}


@pytest.fixture(params=DTYPES, ids=lambda dtype: dtype.name)
def dtype(request):
    return request.param


@pytest.fixture(params=LAYOUTS, ids=str)
def layout(request):
    return LAYOUTS[request.param]


@pytest.fixture(autouse=True)
def _default_threads():
    yield
    import polyglot_bridge as pb

    pb.set_num_threads(None)
