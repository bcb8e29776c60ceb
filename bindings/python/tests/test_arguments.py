"""Arguments: what is taken, what is refused and how; by the table in docs/contract.md."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest

import polyglot_bridge as pb

CONTRACT = pathlib.Path(__file__).parents[3] / "docs" / "contract.md"
AXIS_ERROR = getattr(np, "exceptions", np).AxisError

# What the table in the contract has rows for, and the tests that show it: filled by `row`.
ROWS: dict[str, list[str]] = {}


def row(name):
    """Says which row of the contract's table a test is about."""

    def note(test):
        ROWS.setdefault(name, []).append(test.__name__)
        return test

    return note


def test_each_row_of_the_contract_has_a_test():
    table = CONTRACT.read_text(encoding="utf-8").split("\n## Arguments\n")[1].split("\n## ")[0]
    rows = [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("| ")]
    assert rows[0] == "what" and set(rows[1:]) == set(ROWS)


X = np.array([[1.0, -2.0, 0.5], [3.0, 0.0, -1.0]], np.float32)
Q = np.array([[1.0, 2.0], [0.5, -1.0]], np.float32)


def softmax(x):
    e = np.exp(np.asarray(x, np.float64) - np.max(np.asarray(x, np.float64), -1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def close(found, expected, dtype=np.float64):
    assert found.dtype == dtype
    np.testing.assert_allclose(found.astype(np.float64), expected, rtol=1e-2 if dtype.itemsize == 2 else 1e-6)


def misaligned(x):
    room = np.zeros(x.nbytes + 1, np.uint8)[1:].view(x.dtype).reshape(x.shape)
    room[...] = x
    return room


@row("an array")
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
@pytest.mark.parametrize("form", [np.array, np.asfortranarray, lambda x: x[::-1, ::-1], lambda x: x.astype(x.dtype.newbyteorder()), misaligned,
                                  lambda x: x[:0], lambda x: np.array(x[0, 1])], ids=["C", "Fortran", "negative", "swapped", "misaligned", "empty", "0-d"])
def test_arrays(dtype, form):
    x = form(X.astype(dtype))
    x.flags.writeable = False
    if x.ndim:
        close(pb.softmax(x), softmax(x) if x.size else np.zeros(x.shape), np.dtype(dtype))
    close(pb.relu(x), np.maximum(x.astype(np.float64), 0), np.dtype(dtype))


@row("an array")
def test_bfloat16():
    bfloat16 = np.dtype(pytest.importorskip("ml_dtypes").bfloat16)
    close(pb.softmax(X.astype(bfloat16)), softmax(X), bfloat16)


@row("an array")
@pytest.mark.parametrize("x", [X.astype(complex), np.array(["2020"], "M8[Y]"), np.array(["a"]), np.array([1.0, None], object), np.array([1.0], object)])
def test_arrays_of_other_kinds(x):
    for call in (pb.softmax, pb.relu, lambda x: pb.linear(x, X.T), lambda x: pb.layer_norm(X, x), pb.Linear):
        with pytest.raises(TypeError, match="expected float16, bfloat16, float32 or float64"):
            call(x)


@row("an array")
@pytest.mark.skipif(np.dtype(np.longdouble).itemsize == 8, reason="is float64 here")
def test_longdouble():
    with pytest.raises(TypeError, match="longdouble|float128|float96"):
        pb.softmax(X.astype(np.longdouble))


@row("integers and bools as an array")
@pytest.mark.parametrize("dtype", ["?", "i1", "u2", "i4", "i8", "u8"])
def test_integers(dtype):
    weight = np.array([[1, 0], [0, 1], [1, 1]], dtype)
    close(pb.softmax(weight), softmax(weight))
    for own in ("f2", "f4", "f8"):
        close(pb.linear(X.astype(own), weight), X.astype(np.float64) @ weight.astype(np.float64), np.dtype(own))


@row("numbers and sequences of numbers")
def test_sequences():
    close(pb.softmax([[1, 2.5], (3, True)]), softmax([[1, 2.5], [3, 1]]))
    close(pb.softmax(range(4)), softmax(range(4)))
    close(pb.linear(X, [[1, 0], [0, 1], [1, 1]]), X.astype(np.float64) @ [[1, 0], [0, 1], [1, 1]], np.dtype("f4"))
    close(pb.relu(-3), 0.0)


@row("numbers and sequences of numbers")
@pytest.mark.parametrize("x", [None, "a", b"abc", {1, 2}, {1: 2}, ["a"], object()])
def test_no_sequences_of_numbers(x):
    for call in (pb.softmax, lambda x: pb.matmul(X, x), lambda x: pb.layer_norm(X, weight=[1, 1, 1], bias=x if x is not None else "a")):
        with pytest.raises(TypeError):
            call(x)


@row("numbers and sequences of numbers")
def test_ragged_sequences():
    with pytest.raises(ValueError, match="inhomogeneous|sequence"):
        pb.softmax([[1, 2], [3]])


@row("float arrays of one call")
def test_two_dtypes():
    wide = X.astype(np.float64)
    for call in (lambda: pb.linear(X, wide.T), lambda: pb.linear(X, X.T, wide[:, 0]), lambda: pb.layer_norm(X, wide[0]), lambda: pb.matmul(wide, X.T),
                 lambda: pb.attention(X, X, wide), lambda: pb.layer_norm(X, residual=wide)):
        with pytest.raises(TypeError, match="(?s)float32.*float64|float64.*float32"):
            call()


@row("masked arrays")
@pytest.mark.parametrize("call", [
    pb.softmax, lambda m: pb.linear(m, X.T), lambda m: pb.linear(X, m.T), lambda m: pb.linear(X, X.T, m[:, 0]), lambda m: pb.linear(X, X.T, residual=m[:, :2]),
    lambda m: pb.layer_norm(X, m[0]), lambda m: pb.relu(X, out=m), lambda m: pb.attention(m, X, X), lambda m: pb.attention(X, X, X, mask=m[:, :2]),
    lambda m: pb.mean_pool(X, m[:, 0] > 0), lambda m: pb.embedding(m[0].astype(int), X), lambda m: pb.embedding([0], m), pb.Linear,
    lambda m: pb.Linear(X, m[0]), lambda m: pb.softmax([m[0], m[1]]), lambda m: pb.softmax([[m[0]], (m[1],)]), lambda m: pb.embedding([m[0].astype(int)], X),
    lambda m: pb.dropout_add(X, X, m > 0), lambda m: pb.RowOperation("rms_norm", m[0]), lambda m: pb.sum_of_squares_numpy(m),
    lambda m: pb.scale(X, np.ma.masked), lambda m: pb.scale(X, np.ma.masked_array(2.0)), lambda m: pb.layer_norm(X, eps=m[0, 1]),
])
def test_masked_arrays(call):
    masked = np.ma.masked_array(X, X < 0)
    before = masked.data.copy()
    with pytest.raises(TypeError, match="masked array"):
        call(masked)
    np.testing.assert_array_equal(masked.data, before)


@row("a mask")
def test_masks():
    v = np.array([[1.0, 2.0], [np.nan, 3.0]], np.float32)
    for kind in ("?", "i1", "i8", "u1"):
        np.testing.assert_array_equal(pb.attention(Q, Q, v, mask=np.array([[1, 0], [1, 0]], kind)), [v[0], v[0]])
        np.testing.assert_array_equal(pb.mean_pool(v, np.array([1, 0], kind)), v[0])
    scores = Q.astype(np.float64) @ Q.T / np.sqrt(2) + [[0.5, -1.0], [0.0, 2.0]]
    close(pb.attention(Q, Q, X[:, :2].copy(), mask=np.array([[0.5, -1.0], [0.0, 2.0]], np.float32)), softmax(scores) @ X[:, :2].astype(np.float64), np.dtype("f4"))


@row("a mask")
@pytest.mark.parametrize("mask", [np.ones((2, 2)), np.ones((2, 2), np.float16), np.full((2, 2), "a")])
def test_other_masks(mask):
    with pytest.raises(TypeError, match="mask has dtype"):
        pb.attention(Q, Q, Q, mask=mask)


@row("ids")
def test_ids():
    for kind in ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"):
        np.testing.assert_array_equal(pb.embedding(np.array([1, 0, 1], kind), X), X[[1, 0, 1]])
    np.testing.assert_array_equal(pb.embedding([[1], [0]], X), X[[[1], [0]]])
    np.testing.assert_array_equal(pb.embedding(np.array(1), X), X[1])
    assert pb.embedding([], X).shape == (0, 3)


@row("ids")
@pytest.mark.parametrize(("ids", "error"), [([1.0], TypeError), (np.array([1.0]), TypeError), ([True], TypeError), ("0", TypeError), (None, TypeError), ([2**70], TypeError),
                                            ([2], ValueError), ([-1], ValueError), (np.array([2**64 - 1], np.uint64), ValueError)])
def test_other_ids(ids, error):
    with pytest.raises(error, match="embedding: ids"):
        pb.embedding(ids, X)


@row("`out`")
def test_out():
    for room in (np.empty((2, 3), np.float32), np.empty((3, 2), np.float32).T, np.empty((4, 6), np.float32)[::-2, ::2]):
        assert pb.relu(X, out=room) is room
        np.testing.assert_array_equal(room, np.maximum(X, 0))


@row("`out`")
def test_other_out():
    locked = np.zeros((2, 3), np.float32)
    locked.flags.writeable = False
    shared = np.lib.stride_tricks.as_strided(np.zeros(3, np.float32), (2, 3), (0, 4))
    for out, error in ([[0.0]], TypeError), (3, TypeError), (np.zeros((2, 3)), TypeError), (np.zeros((3, 2), np.float32), ValueError), (locked, ValueError), (shared, ValueError):
        with pytest.raises(error, match="out"):
            pb.relu(X, out=out)
    assert not locked.any() and not shared.any()


@row("a number (eps, scale, factor)")
def test_numbers():
    for two in (2, 2.0, np.float32(2), np.float64(2), np.int8(2), np.longdouble(2), np.array(2.0)):
        np.testing.assert_array_equal(pb.scale(X, two), X * 2)
    np.testing.assert_array_equal(pb.scale(X, True), X)
    assert np.isnan(pb.scale(X, float("nan"))).all() and pb.scale(X, np.inf)[0, 0] == np.inf
    close(pb.layer_norm(np.array([1.0, 3.0]), eps=3), np.array([-0.5, 0.5]))
    close(pb.attention(Q, Q, Q, scale=np.int16(0)), np.broadcast_to(Q.astype(np.float64).mean(0), (2, 2)), np.dtype("f4"))


@row("a number (eps, scale, factor)")
@pytest.mark.parametrize(("number", "error"), [("2", TypeError), (1j, TypeError), (np.array([2.0]), TypeError), ([2.0], TypeError), (10**400, OverflowError)])
def test_other_numbers(number, error):
    for call in (lambda: pb.scale(X, number), lambda: pb.layer_norm(X, eps=number), lambda: pb.rms_norm(X, eps=number), lambda: pb.attention(Q, Q, Q, scale=number),
                 lambda: pb.dropout_add(X, X, X > 0, number)):
        with pytest.raises(error):
            call()
    with pytest.raises(TypeError, match="factor"):
        pb.scale(X, None)


@row("an axis")
def test_axes():
    for axis in (0, -2, np.int64(0), np.uint8(0)):
        close(pb.softmax(X, axis=axis), softmax(X.T).T, np.dtype("f4"))


@row("an axis")
@pytest.mark.parametrize(("axis", "error"), [(1.0, TypeError), ("0", TypeError), (None, TypeError), ([0], TypeError), (2, AXIS_ERROR), (-3, AXIS_ERROR), (2**70, AXIS_ERROR)])
def test_other_axes(axis, error):
    for call in (pb.softmax, pb.log_softmax, pb.layer_norm, pb.rms_norm, pb.l2_normalize):
        with pytest.raises(error, match="axis"):
            call(X, axis=axis)


@row("memory that there is not")
def test_no_memory():
    long = np.broadcast_to(np.float64(1.0), (1 << 25, 1))
    for call in (lambda: pb.relu(np.broadcast_to(long, (1 << 20, 1 << 25, 1))), lambda: pb.softmax(np.broadcast_to(long, (1 << 25, 1 << 20))),
                 lambda: pb.matmul(long, long.T), lambda: pb.linear(long, long.T)):
        with pytest.raises(MemoryError):
            call()
