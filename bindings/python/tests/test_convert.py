"""Layers from PyTorch and scikit-learn: from the packages themselves where they are there, else from what looks alike."""

from __future__ import annotations


import numpy as np
import pytest
from conftest import normal

import polyglot_bridge as pb

F32 = np.dtype("float32")


class Tensor:
    """As much of a tensor as is asked for: NumPy refuses it until it is detached."""

    def __init__(self, array, detached=False):
        self.array, self.dtype, self.shape, self.ndim, self.detached = array, array.dtype, array.shape, array.ndim, detached

    def detach(self):
        return Tensor(self.array, True)

    def numpy(self):
        assert self.detached
        return self.array


class Linear:
    def __init__(self, weight, bias=None):
        self.weight, self.bias = Tensor(weight), None if bias is None else Tensor(bias)


def test_linear_from_what_looks_like_torch():
    weight, bias, x = normal((5, 7), F32), normal(5, F32, 1), normal((3, 7), F32, 2)
    expected = pb.linear(x, weight.T, bias, activation="relu")
    layer = pb.Linear.from_torch(Linear(weight, bias), activation="relu")
    assert layer(x).tobytes() == expected.tobytes() and (layer.in_features, layer.out_features) == (7, 5)
    state = {"fc.weight": weight, "fc.bias": bias}
    assert pb.Linear.from_torch(state, prefix="fc.", activation="relu")(x).tobytes() == expected.tobytes()
    assert pb.Linear.from_torch(Linear(weight), dtype="float16").dtype == np.float16
    with pytest.raises(ValueError, match=r"weight.*fc\.weight.*prefix"):
        pb.Linear.from_torch(state)
    with pytest.raises(TypeError, match="Linear.from_torch: module must be.*int"):
        pb.Linear.from_torch(3)
    with pytest.raises(ValueError, match=r"from_torch: weight has shape \(5,\)"):
        pb.Linear.from_torch({"weight": bias})


def test_sequential_from_a_state_dict():
    state = {}
    widths = [7, *([6] * 10), 3]
    for index, (k, n) in enumerate(zip(widths, widths[1:])):
        state[f"net.{index}.weight"], state[f"net.{index}.bias"] = normal((n, k), F32, index), normal(n, F32, index + 50)
    # In the order of their numbers, whatever that of the dict.
    state = dict(sorted(state.items()))
    layers = pb.Sequential.from_torch(state, activation="tanh")
    x = normal((4, 7), F32)
    expected = x
    for index in range(11):
        activation = "tanh" if index < 10 else None
        expected = pb.linear(expected, state[f"net.{index}.weight"].T, state[f"net.{index}.bias"], activation=activation)
    assert layers(x).tobytes() == expected.tobytes()
    with pytest.raises(ValueError, match=r"norm\.weight has shape \(7,\)"):
        pb.Sequential.from_torch({"norm.weight": np.ones(7)})
    with pytest.raises(ValueError, match="no weights"):
        pb.Sequential.from_torch({})


def test_torch_itself():
    torch = pytest.importorskip("torch")
    nn = torch.nn
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Linear(9, 12), nn.GELU(), nn.LayerNorm(12), nn.Dropout(), nn.Linear(12, 8, bias=False), nn.SiLU(), nn.RMSNorm(8),
        nn.Sequential(nn.Linear(8, 6), nn.GELU(approximate="tanh"), nn.ReLU()), nn.Linear(6, 4), nn.Softmax(dim=-1),
    ).eval()
    layers = pb.Sequential.from_torch(module)
    assert [getattr(layer, "activation", None) for layer in layers[:1]] == ["gelu"]
    x = torch.randn(5, 9)
    expected = module(x).detach().numpy()
    np.testing.assert_allclose(layers(x), expected, rtol=1e-5, atol=1e-6)
    narrow = pb.Linear.from_torch(nn.Linear(9, 3).to(torch.bfloat16))
    assert narrow.dtype.name == "bfloat16"
    assert pb.Linear.from_torch(module.state_dict(), prefix="0.").in_features == 9
    with pytest.raises(ValueError, match="1.Conv1d is no layer"):
        pb.Sequential.from_torch(nn.Sequential(nn.ReLU(), nn.Conv1d(1, 1, 1)))
    with pytest.raises(ValueError, match="activation goes with"):
        pb.Sequential.from_torch(module, activation="relu")


def test_scikit_learn_on_the_digits():
    pytest.importorskip("sklearn")
    import warnings

    from sklearn.datasets import load_diabetes, load_digits
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier, MLPRegressor

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        x, y = load_digits(return_X_y=True)
        for activation in ("relu", "tanh", "logistic", "identity"):
            model = MLPClassifier(hidden_layer_sizes=(32, 16), activation=activation, max_iter=8, random_state=0).fit(x, y)
            ours = pb.from_sklearn(model)(x)
            np.testing.assert_allclose(ours, model.predict_proba(x), rtol=1e-9, atol=1e-12)
            assert np.array_equal(model.classes_[ours.argmax(axis=1)], model.predict(x))
        two = MLPClassifier(hidden_layer_sizes=(8,), max_iter=5, random_state=0).fit(x, y > 4)
        np.testing.assert_allclose(pb.Sequential.from_sklearn(two)(x)[:, 0], two.predict_proba(x)[:, 1], rtol=1e-9)
        narrow = pb.from_sklearn(model, dtype="float16")
        assert narrow[0].dtype == np.float16 and "float32" in narrow.dtypes
        x, y = load_diabetes(return_X_y=True)
        model = MLPRegressor(hidden_layer_sizes=(16,), max_iter=5, random_state=0).fit(x, y)
        np.testing.assert_allclose(pb.from_sklearn(model)(x)[:, 0], model.predict(x), rtol=1e-9)
        with pytest.raises(TypeError, match="from_sklearn: model must be a fitted"):
            pb.from_sklearn(MLPClassifier())
    with pytest.raises(TypeError, match="from_sklearn.*int"):
        pb.from_sklearn(3)
