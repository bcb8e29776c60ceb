"""The kernels that transformers are made of, against formulas in float64: attention, layer norm of a sum, embedding,
mean pooling, scaling to length 1."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import BFLOAT16, DTYPES, LAYOUTS, WRITEABLE, assert_close, compute_roundoff, normal, unit_roundoff

import polyglot_bridge as pb

MASKS = ["none", "causal", "keys", "each", "added", "integers", "both"]


def expected_attention(q, k, v, mask=None, causal=False, scale=None):
    """The formula in float64, and how far off a result of each dtype may be."""
    wide = [np.asarray(x).astype(np.float64) for x in (q, k, v)]
    scale = wide[0].shape[-1] ** -0.5 if scale is None else scale
    scores = wide[0] @ np.swapaxes(wide[1], -1, -2) * scale
    size = np.abs(wide[0]) @ np.swapaxes(np.abs(wide[1]), -1, -2) * abs(scale)
    if mask is not None:
        mask = np.asarray(mask)
        scores = np.where(mask != 0, scores, -np.inf) if mask.dtype.kind in "biu" else scores + mask.astype(np.float64)
    if causal:
        scores = np.where(np.tri(*scores.shape[-2:], dtype=bool), scores, -np.inf)
    top = scores.max(-1, keepdims=True, initial=-np.inf)
    weights = np.exp(scores - np.where(np.isinf(top), 0, top))
    total = weights.sum(-1, keepdims=True)
    weights = np.divide(weights, total, out=np.zeros_like(weights), where=total > 0)
    unit = compute_roundoff(np.asarray(q).dtype)
    steps = 2 * (wide[0].shape[-1] + 8) * (size.max(initial=0) + 4) + scores.shape[-1] + 40
    right, magnitude = weights @ wide[2], weights @ np.abs(wide[2])
    return right, magnitude * steps * unit + np.abs(right) * unit_roundoff(np.asarray(q).dtype) * 1.01 + 1e-7 * unit


def check(found, expected, dtype):
    right, bound = expected
    assert found.dtype == dtype and found.shape == right.shape
    assert np.all(np.abs(found.astype(np.float64) - right) <= bound + (6e-8 if dtype.itemsize == 2 else 0))


def operands(shape, dtype, kind, seed=0):
    batch, queries, keys, size, values = shape
    q, k = normal((*batch, queries, size), dtype, seed), normal((*batch, keys, size), dtype, seed + 1)
    v, random = normal((*batch, keys, values), dtype, seed + 2), np.random.default_rng(seed)
    one = (*batch[:-1], 1, 1, keys) if batch else (1, keys)
    options = {
        "none": {},
        "causal": {"causal": True},
        "keys": {"mask": random.random(one) < 0.7},
        "each": {"mask": random.random((queries, keys)) < 0.7},
        "added": {"mask": np.where(random.random((queries, keys)) < 0.2, -np.inf, 1).astype(dtype)},
        "integers": {"mask": random.integers(0, 3, (queries, 1))},
        "both": {"mask": random.random((*batch, queries, keys)) < 0.7, "causal": True, "scale": 0.5},
    }[kind]
    return (q, k, v), options


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize(
    "shape",
    [((), 5, 7, 8, 3), ((2, 3), 17, 33, 32, 32), ((1, 2), 1, 300, 16, 40), ((2,), 70, 69, 5, 17), ((0,), 2, 3, 4, 5)],
)
def test_attention(dtype, shape, kind):
    arrays, options = operands(shape, dtype, kind)
    check(pb.attention(*arrays, **options), expected_attention(*arrays, **options), dtype)


def test_attention_of_any_layout(dtype, layout):
    for kind in MASKS:
        arrays, options = operands(((2, 3), 9, 21, 8, 8), dtype, kind)
        arrays = [layout(x) for x in arrays]
        if "mask" in options:
            options["mask"] = layout(options["mask"])
        plain = {name: np.ascontiguousarray(x) if name == "mask" else x for name, x in options.items()}
        found = pb.attention(*arrays, **options)
        check(found, expected_attention(*arrays, **options), dtype)
        if kind in ("none", "each", "causal"):
            copies = [np.array(x, dtype, order="C") for x in arrays]
            assert np.array_equal(pb.attention(*copies, **plain), found)


@pytest.mark.parametrize("name", WRITEABLE)
def test_attention_writes_where_it_is_told(dtype, name):
    arrays, options = operands(((2, 3), 9, 21, 8, 5), dtype, "keys")
    expected = pb.attention(*arrays, **options)
    out = WRITEABLE[name](np.zeros_like(expected))
    assert pb.attention(*arrays, **options, out=out) is out
    assert np.array_equal(out, expected)


def test_attention_reads_and_writes_packed_heads(dtype):
    qkv = normal((2, 19, 3, 4, 8), dtype)
    q, k, v = qkv.transpose(2, 0, 3, 1, 4)
    context = np.empty((2, 19, 4, 8), dtype)
    pb.attention(q, k, v, out=context.transpose(0, 2, 1, 3))
    assert np.array_equal(context.transpose(0, 2, 1, 3), pb.attention(q.copy(), k.copy(), v.copy()))
    # Over one of its inputs.
    expected = pb.attention(q, k, v)
    assert np.array_equal(pb.attention(q, k, v, out=q), expected)


def test_attention_broadcasts_leading_dimensions(dtype):
    q, k, v = normal((2, 4, 5, 8), dtype), normal((1, 6, 8), dtype, 1), normal((4, 6, 3), dtype, 2)
    expected = pb.attention(q, np.broadcast_to(k, (2, 4, 6, 8)).copy(), np.broadcast_to(v, (2, 4, 6, 3)).copy())
    assert np.array_equal(pb.attention(q, k, v), expected)
    assert np.array_equal(pb.attention(q[0, 0], k, v[0]), expected[:1, 0])


def test_attention_gives_the_same_bits_alone_and_padded(dtype):
    q, k, v = (normal((3, 2, 40, 8), dtype, seed) for seed in range(3))
    lengths = [40, 1, 23]
    mask = (np.arange(40) < np.array(lengths)[:, None])[:, None, None]
    k[~np.broadcast_to(mask[:, :, 0, :], k.shape[:3])] = np.nan
    v[~np.broadcast_to(mask[:, :, 0, :], k.shape[:3])] = np.inf
    whole = pb.attention(q, k, v, mask=mask)
    for row, length in enumerate(lengths):
        alone = pb.attention(q[row, :, :length], k[row, :, :length], v[row, :, :length])
        assert np.array_equal(alone, whole[row, :, :length])
    for threads in (1, 2, 5):
        with pb.threads(threads):
            assert np.array_equal(pb.attention(q, k, v, mask=mask), whole)


def test_attention_of_nothing_is_zero(dtype):
    q, k, v = normal((2, 4), dtype), normal((3, 4), dtype), np.full((3, 5), np.nan, dtype)
    for mask in (False, np.zeros((2, 3), bool), [0, 0, 0]):
        assert not pb.attention(q, k, v, mask=mask).any()
    assert not pb.attention(q, k[:0], v[:0]).any()
    assert not pb.attention(q, k, np.ones_like(v), mask=np.full(3, -np.inf, dtype)).any()


def test_attention_of_nan(dtype):
    q, k, v = (normal((6, 4), dtype, seed) for seed in range(3))
    k[3, 1] = np.nan
    rows = np.isnan(pb.attention(q, k, v, causal=True)).all(1)
    assert rows.tolist() == [False] * 3 + [True] * 3


def test_attention_memory_does_not_grow_with_the_square():
    # Scores of 20,000 x 20,000 floats would take 1.6 GB.
    resource = pytest.importorskip("resource")
    x = normal((20_000, 4), np.dtype(np.float32))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    pb.attention(x, x, x)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


def test_attention_arguments():
    x = np.ones((2, 3, 4), np.float32)
    for arguments, options, match in [
        ((x, x[..., :3], x), {}, r"q has shape \(2, 3, 4\), k has shape \(2, 3, 3\)"),
        ((x, x, x[:, :2]), {}, "k and v must have as many rows"),
        ((x, x[:1].repeat(3, 0), x), {}, "do not broadcast"),
        ((x, x, x), {"mask": np.ones((2, 2), bool)}, r"mask has shape \(2, 2\).*\(2, 3, 3\)"),
        ((x, x, x), {"mask": np.ones((5, 2, 3, 3), bool)}, "mask has shape"),
        ((x, x, x), {"out": np.ones((2, 3, 3), np.float32)}, r"out has shape \(2, 3, 3\)"),
        ((x[0, 0], x, x), {}, "two dimensions"),
    ]:
        with pytest.raises(ValueError, match=match):
            pb.attention(*arguments, **options)
    with pytest.raises(TypeError, match="float64"):
        pb.attention(x, x.astype(np.float64), x)
    with pytest.raises(TypeError, match="mask has dtype float64"):
        pb.attention(x, x, x, mask=np.zeros((3, 3)))
    with pytest.raises(TypeError, match="scale"):
        pb.attention(x, x, x, scale="1")


@pytest.mark.parametrize("shape", [(1,), (7,), (5, 17), (3, 2, 384), (2, 0), (0, 3), (2, 5000)])
def test_layer_norm_of_a_sum(dtype, shape):
    x, residual = normal(shape, dtype), normal(shape, dtype, 1)
    weight, bias = normal(shape[-1], dtype, 2), normal(shape[-1], dtype, 3)
    wide = x.astype(np.float64) + residual.astype(np.float64)
    if dtype.itemsize == 2 and shape[-1] > 4096:  # no room in the compute type
        wide = wide.astype(dtype).astype(np.float64)
    if wide.size:
        wide = (wide - wide.mean(-1, keepdims=True)) / np.sqrt(wide.var(-1, keepdims=True) + 1e-5)
    exact = wide * weight.astype(np.float64) + bias.astype(np.float64)
    found = pb.layer_norm(x, weight, bias, residual=residual)
    absolute = (
        64 * compute_roundoff(dtype) * (np.abs(wide * weight.astype(np.float64)) + np.abs(bias.astype(np.float64)) + 1)
    )
    assert_close(found, exact, dtype, ulps=16, absolute=absolute)
    for target in (x, residual):
        copies = {"x": x.copy(), "residual": residual.copy()}
        out = copies["x"] if target is x else copies["residual"]
        assert pb.layer_norm(copies["x"], weight, bias, residual=copies["residual"], out=out) is out
        assert np.array_equal(out, found, equal_nan=True)


def test_layer_norm_of_a_sum_of_any_layout(dtype, layout):
    x, residual = normal((6, 300), dtype), normal((6, 300), dtype, 1)
    x[1:], residual[1:] = x[:1], residual[:1]
    expected = pb.layer_norm(x, residual=residual)
    assert np.array_equal(pb.layer_norm(layout(x), residual=layout(residual)), expected)
    turned = pb.layer_norm(layout(x).T, residual=layout(residual).T, axis=0)
    assert np.array_equal(turned, expected.T)
    if dtype == np.float32:
        assert np.array_equal(expected, pb.layer_norm(x + residual))
    with pytest.raises(ValueError, match=r"residual has shape \(3,\), expected \(6, 300\)"):
        pb.layer_norm(x, residual=np.ones(3, dtype))


def test_embedding(dtype):
    tables = [normal((rows, 37), dtype, rows) for rows in (11, 5, 2)]
    ids = [np.random.default_rng(rows).integers(0, rows, (4, 6)) for rows in (11, 5, 2)]
    assert np.array_equal(pb.embedding(ids[0], tables[0]), tables[0][ids[0]])
    exact = sum(table[index].astype(np.float64) for table, index in zip(tables, ids))
    size = sum(np.abs(table[index].astype(np.float64)) for table, index in zip(tables, ids))
    found = pb.embedding(tuple(ids), tuple(tables))
    assert_close(found, exact, dtype, ulps=2, absolute=2 * compute_roundoff(dtype) * size)
    wide = np.dtype(np.float64 if dtype == np.float64 else np.float32)
    found = pb.embedding(tuple(ids), tuple(tables), dtype=wide)
    assert_close(found, exact, wide, ulps=2, absolute=2 * compute_roundoff(wide) * size)
    out = np.zeros((4, 6, 37), wide)
    assert pb.embedding(tuple(ids), tuple(tables), dtype=wide, out=out) is out and np.array_equal(out, found)
    assert pb.embedding(3, tables[0]).shape == (37,)
    assert pb.embedding([], tables[0]).shape == (0, 37)


def test_embedding_of_any_layout(dtype, layout):
    table, ids = normal((9, 21), dtype), np.random.default_rng(0).integers(0, 9, (4, 5))
    table, kept = layout(table), layout(ids)
    assert np.array_equal(pb.embedding(kept, table), np.array(table)[np.array(kept)].astype(dtype))


def test_embedding_arguments():
    table = np.ones((4, 2), np.float32)
    for bad in (-1, 4, 2**40):
        with pytest.raises(ValueError, match=f"ids has {bad}"):
            pb.embedding([0, bad], table)
    for dtype, bad in [(np.uint64, 2**64 - 1), (np.uint64, 2**63), (np.int64, -(2**63)), (np.uint8, 255), (np.int8, -128)]:
        with pytest.raises(ValueError, match=f"ids has {bad},"):
            pb.embedding(np.array([0, bad], dtype), table)
    assert np.array_equal(pb.embedding(np.array([3], np.uint64), table), table[3:])
    with pytest.raises(TypeError, match="float64"):
        pb.embedding([0.0], table)
    with pytest.raises(ValueError, match=r"\(4,\)"):
        pb.embedding([0], table[:, 0])
    with pytest.raises(ValueError, match="2 arrays of ids and 1 tables"):
        pb.embedding(([0], [0]), table)
    with pytest.raises(ValueError, match=r"table has shape \(4, 1\)"):
        pb.embedding(([0], [0]), (table, table[:, :1]))
    with pytest.raises(ValueError, match=r"ids has shape \(2,\)"):
        pb.embedding(([0], [0, 1]), (table, table))
    with pytest.raises(TypeError, match="float32.*float64"):
        pb.embedding(([0], [0]), (table, table.astype(np.float64)))
    with pytest.raises(TypeError, match="float16"):
        pb.embedding([0], table, dtype="float16")


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (2, 33, 17), (2, 3, 100, 8), (4, 0), (0, 3), (2, 0, 5)])
def test_mean_pool(dtype, shape):
    x, mask = normal(shape, dtype), np.random.default_rng(0).random(shape[:-1]) < 0.6
    if mask.ndim > 1 and mask.size:
        mask[0] = False
    wide = np.where(mask[..., None], x.astype(np.float64), 0)
    count = np.maximum(mask.sum(-1)[..., None], 1)
    absolute = 16 * compute_roundoff(dtype) * np.abs(wide).sum(-2) / count
    x[~mask] = np.nan
    found = pb.mean_pool(x, mask)
    assert_close(found, wide.sum(-2) / count, dtype, ulps=2, absolute=absolute)
    assert np.array_equal(pb.mean_pool(x, mask.astype(np.int64)), found)
    out = np.zeros_like(found)
    assert pb.mean_pool(x, mask, out=out) is out and np.array_equal(out, found)
    # Padding changes no bit.
    padded = np.concatenate([x, np.full_like(x, np.inf)], -2)
    assert np.array_equal(pb.mean_pool(padded, np.concatenate([mask, np.zeros_like(mask)], -1)), found)


def test_mean_pool_of_any_layout(dtype, layout):
    x, mask = layout(normal((4, 9, 5), dtype)), layout(np.random.default_rng(0).random((4, 9)) < 0.5)
    expected = pb.mean_pool(np.array(x).astype(dtype), np.array(mask))
    assert np.array_equal(pb.mean_pool(x, mask), expected)


def test_mean_pool_arguments():
    x = np.ones((2, 3, 4), np.float32)
    assert np.array_equal(pb.mean_pool(x), np.ones((2, 4)))
    with pytest.raises(ValueError, match=r"mask has shape \(3,\), expected \(2, 3\)"):
        pb.mean_pool(x, [1, 1, 1])
    with pytest.raises(TypeError, match="mask has dtype float32"):
        pb.mean_pool(x, x[..., 0])
    with pytest.raises(ValueError, match=r"\(4,\)"):
        pb.mean_pool(x[0, 0])


@pytest.mark.parametrize("shape", [(), (1,), (5, 17), (2, 3, 384), (0, 3), (3, 0)])
def test_l2_normalize(dtype, shape):
    x = normal(shape, dtype)
    wide = x.astype(np.float64)
    length = np.abs(wide) if x.ndim == 0 else np.sqrt((wide**2).sum(-1, keepdims=True))
    found = pb.l2_normalize(x)
    assert_close(found, wide / length, dtype, ulps=8)
    assert pb.l2_normalize(x := x.copy(), out=x) is x and np.array_equal(x, found)


def test_l2_normalize_extremes(dtype):
    largest = {"float16": 6e4, "float32": 1e38, "float64": 1e300, "bfloat16": 1e38}[dtype.name]
    x = np.array([[largest, -largest], [0, 0], [1 / largest, 0], [np.nan, 1]]).astype(dtype)
    found = pb.l2_normalize(x).astype(np.float64)
    assert np.allclose(found[:3], [[0.5**0.5, -(0.5**0.5)], [0, 0], [1, 0]], rtol=0.01, atol=0)
    assert np.isnan(found[3]).all()


def test_what_these_tests_go_through():
    assert len(DTYPES) == (4 if BFLOAT16 is not None else 3) and len(LAYOUTS) == 10
