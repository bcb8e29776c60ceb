"""The cache of results: what it keeps, what it never shows, and arrays that outlive it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import polyglot_bridge as pb

MB = 2**20


@pytest.fixture(autouse=True)
def _empty():
    # Whatever limit the fuzz of set_cache_limit left.
    pb.set_cache_limit(256 * MB)
    pb.clear_cache()
    yield
    pb.set_cache_limit(256 * MB)
    pb.clear_cache()


def test_a_freed_result_is_used_again():
    x = np.ones((1024, 1024), np.float32)
    before = pb.cache_info()
    first = pb.relu(x)
    address = first.ctypes.data
    del first
    assert pb.cache_info()["bytes"] >= 4 * MB
    assert pb.relu(x).ctypes.data == address
    assert pb.cache_info()["hits"] > before["hits"]
    pb.clear_cache()
    assert pb.cache_info()["bytes"] == 0


def test_arrays_keep_their_memory():
    x = np.arange(300_000, dtype=np.float64)
    result = pb.scale(x, 2.0)
    view = result[10:20]
    del result
    pb.clear_cache()
    others = [pb.scale(x, -1.0) for _ in range(4)]
    assert view.tolist() == [2.0 * value for value in range(10, 20)]
    assert len({other.ctypes.data for other in others}) == 4


def test_the_limit():
    x = np.ones(4 * MB // 8)
    pb.set_cache_limit(0)
    pb.relu(x)
    assert pb.cache_info()["bytes"] == 0 and pb.cache_info()["limit"] == 0
    pb.set_cache_limit(8 * MB)
    results = [pb.relu(x) for _ in range(6)]
    del results
    assert 0 < pb.cache_info()["bytes"] <= 8 * MB
    pb.set_cache_limit(10**30)


def test_large_results_are_like_any_array():
    result = pb.relu(np.ones((500, 500)))
    assert result.flags.writeable and result.flags.aligned and result.flags.c_contiguous
    result += 1
    assert (result == 2).all()
    order = pb.relu(np.asfortranarray(np.ones((500, 500))))
    assert order.flags.f_contiguous and order.flags.writeable


def test_from_many_threads():
    x = np.ones(100_000, np.float32)

    def work(factor):
        return all((pb.scale(x, factor) == factor).all() for _ in range(50))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))


@pytest.mark.parametrize(("bad", "exception"), [(-1, ValueError), (1.5, TypeError), ("1", TypeError), (None, TypeError)])
def test_bad_limits(bad, exception):
    with pytest.raises(exception, match="set_cache_limit: bytes"):
        pb.set_cache_limit(bad)
