"""Layers from PyTorch and scikit-learn: from the packages themselves where they are there, else from what looks alike."""

from __future__ import annotations

import pathlib
import re

import numpy as np
import pytest
from conftest import normal

import polyglot_bridge as pb

F32 = np.dtype("float32")
HERE = pathlib.Path(__file__).parent


def about(*names):
    """Says which rows of the contract's table a test is about."""
    return lambda test: test


def test_each_row_of_the_contract_has_a_test():
    text = (HERE.parents[2] / "docs" / "contract.md").read_text(encoding="utf-8").split("\n## Converters\n")[1].split("\n## ")[0]
    rows = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("|")][2:]
    tests = "".join((HERE / f"test_{name}.py").read_text(encoding="utf-8") for name in ("convert", "convert_torch", "models"))
    tested = {name for names in re.findall(r"^@about\((.*)\)$", tests, re.MULTILINE) for name in re.findall('"([^"]*)"', names)}
    assert len(rows) > 10 and set(rows) == tested


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


@about("an object with a weight", "a state dict of one layer")
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


@about("a state dict of a stack")
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


@about("a module")
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


@about("a network of scikit-learn")
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


# --- What is refused, without the packages themselves -----------------------------------------------------------------------------


def refused(call, *words, error=ValueError):
    with pytest.raises(error) as raised:
        call()
    for word in words:
        assert word in str(raised.value), str(raised.value)


def linear_of(state, **arguments):
    return lambda: pb.Linear.from_torch(state, **arguments)


def stack_of(state, **arguments):
    return lambda: pb.Sequential.from_torch(state, **arguments)


def square(seed=0, dtype=F32):
    return normal((4, 4), dtype, seed)


@about("a state dict of a stack")
def test_an_order_that_names_do_not_tell_is_refused():
    up, down = normal((8, 4), F32), normal((4, 8), F32)
    for state in ({"up.weight": up, "down.weight": down}, {"down.weight": down, "up.weight": up}):
        refused(stack_of(state), "'down.weight'", "'up.weight'", "comes first", "prefix=")
    for names in (("a.weight", "weight"), ("0.a.weight", "0.b.weight"), ("net.0.weight", "head.weight"), ("0.weight", "0.0.weight"),
                  ("fc1.weight", "fc01.weight"), ("layer1.weight", "layer.1.weight"), ("0.weight", "a.weight"), ("weight", "0.weight")):
        refused(stack_of({name: square() for name in names}), "comes first")
    # What numbers tell, at any depth.
    for names in (("0.weight", "2.weight", "10.weight"), ("fc1.weight", "fc2.weight"), ("0.weight", "1.0.weight", "1.2.weight", "2.weight"),
                  ("net.0.fc.weight", "net.1.fc.weight"), ("0.1.weight", "1.0.weight"), ("only.weight",), ("weight",)):
        weights = {name: square(seed) for seed, name in enumerate(names)}
        x, expected = normal((3, 4), F32, 99), normal((3, 4), F32, 99)
        for name in names:
            expected = pb.linear(expected, weights[name].T)
        assert pb.Sequential.from_torch(dict(reversed(weights.items())))(x).tobytes() == expected.tobytes()


@about("a state dict of a stack", "a state dict of one layer")
def test_names_that_are_no_linear_layers_are_refused():
    for more in ("0.lora_A", "0.weight_scale", "0.weight_g", "1.bias", "scale", "1.running_mean", "0.in_proj_weight", "0.weight.absmax"):
        refused(stack_of({"0.weight": square(), more: square()[0]}), repr(more), "nothing but linear layers")
    refused(linear_of({"fc.weight": square(), "fc.lora_A.weight": square()}, prefix="fc."), "'fc.lora_A.weight'", "prefix")
    refused(linear_of({"weight": np.ones((3, 3), np.float16), "weight_scale": np.ones(3)}), "'weight_scale'")
    refused(linear_of({"weight_g": square(), "weight_v": square(), "bias": square()[0]}), "no 'weight'", "'weight_g'")
    assert pb.Linear.from_torch({"fc.weight": square(), "fc2.weight_g": 3, "other": None}, prefix="fc.").in_features == 4
    refused(linear_of({3: square()}), "names", "int", error=TypeError)
    refused(stack_of({"0.weight": square(), None: square()}), "names", "NoneType", error=TypeError)
    refused(linear_of({"weight": square()}, prefix=3), "prefix must be a string, not int", error=TypeError)
    refused(linear_of(Linear(square()), prefix="fc."), "prefix goes with a state dict")


@about("a state dict of one layer")
def test_weights_that_may_be_the_other_way_round_are_refused():
    """GPT-2 keeps (in, out)."""
    for state in ({"c_fc.weight": normal((4, 16), F32), "c_fc.bias": normal(16, F32)},):
        refused(linear_of(state, prefix="c_fc."), "(4, 16)", "(in, out)", "polyglot_bridge.Linear")
        refused(stack_of({f"0.{name}": value for name, value in state.items()}), "(in, out)")
    refused(linear_of({"fc.weight": square(), "fc.bias": normal(5, F32)}, prefix="fc."), "(5,)", "(4, 4)")
    # Nothing but the name tells of these, and not which way.
    for name in ("c_proj.", "h.0.attn.c_proj.", "h.3.mlp.c_fc.", "c_attn.", "q_attn."):
        for state in ({f"{name}weight": square(), f"{name}bias": square()[0]}, {f"{name}weight": normal((3, 4), F32)}):
            refused(linear_of(state, prefix=name), name, "GPT-2")
    state = {"h.0.c_fc.weight": normal((16, 4), F32), "h.0.c_fc.bias": normal(16, F32)}
    assert pb.Linear.from_torch(state, prefix="h.0.c_fc.").in_features == 4


def odd_arrays():
    masked = np.ma.masked_array(np.ones((4, 4), np.float32), np.eye(4))
    yield "masked", masked, "mask"
    yield "a list with a masked row", [masked[0], *np.ones((3, 4), np.float32)], "mask"
    for dtype in ("int8", "uint8", "int32", "int64", "bool", "complex64", "object", "U1", "M8[s]", "longdouble"):
        if np.dtype(dtype).name != "float64":
            yield dtype, np.ones((4, 4), "int64").astype(dtype), str(np.dtype(dtype))
    yield "None", None, "object"
    yield "a string", "weight", "<U6"


ODD = list(odd_arrays())


@about("a tensor")
@pytest.mark.parametrize("name, array, word", ODD, ids=[name for name, *_ in ODD])
def test_arrays_whose_numbers_are_not_all_there_is(name, array, word):
    refused(linear_of({"weight": array}), "Linear.from_torch: weight ", word, error=TypeError)
    refused(stack_of({"0.weight": array}), "Sequential.from_torch: 0.weight ", word, error=TypeError)
    if array is not None:
        refused(linear_of({"weight": square(), "bias": array}), "Linear.from_torch: bias ", word, error=TypeError)
    if name in ("int8", "uint8"):
        refused(linear_of({"weight": array}), "scale", error=TypeError)


@about("a tensor")
def test_floats_of_eight_bits_mean_nothing_without_their_scale():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    for dtype in (ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2, ml_dtypes.int4):
        refused(linear_of({"weight": np.ones((4, 4), dtype)}), np.dtype(dtype).name, "scale", error=TypeError)


@about("a tensor")
def test_arrays_of_bfloat16():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    weight, bias = square().astype(ml_dtypes.bfloat16), square()[0].astype(ml_dtypes.bfloat16)
    layer = pb.Linear.from_torch({"weight": weight, "bias": bias})
    assert layer.dtype == weight.dtype and np.array_equal(layer.weight.T, weight) and np.array_equal(layer.bias, bias)
    assert pb.Linear.from_torch({"weight": weight}, dtype="float32").dtype == np.float32


@about("a tensor")
def test_arrays_of_any_layout_and_class():
    class Mine(np.ndarray):
        pass

    weight = normal((8, 8), F32)
    for one in (weight[::2, ::-2], np.asfortranarray(weight), weight.astype(">f4"), weight.view(Mine), np.broadcast_to(weight[0], (3, 8)),
                weight.tolist(), weight[:0], weight[:, :0]):
        layer = pb.Linear.from_torch({"weight": one})
        assert np.array_equal(layer.weight.T, np.asarray(one)) and layer.weight.shape == np.shape(one)[::-1]


@about("a dtype")
@pytest.mark.parametrize("stored", ["float16", "float32", "bfloat16"])
def test_no_number_becomes_infinite(stored):
    wide = np.float64 if stored == "float32" else np.float32
    most = {"float16": 65504.0, "bfloat16": (2 - 2.0**-7) * 2.0**127, "float32": (2 - 2.0**-23) * 2.0**127}[stored]
    # The first number that rounds to infinity, and the last that does not.
    beyond = wide({"float16": 65520.0, "bfloat16": (2 - 2.0**-8) * 2.0**127, "float32": (2 - 2.0**-24) * 2.0**127}[stored])
    last = np.nextafter(beyond, wide(0))
    for sign in (1, -1):
        for value in (last, most, np.inf, np.nan, 0.0):
            weight = np.zeros((2, 2), wide)
            weight[1, 0] = sign * value
            kept = pb.Linear.from_torch({"weight": weight}, dtype=stored).weight
            assert np.isfinite(kept.astype(np.float64)).all() == np.isfinite(value)
        weight[1, 0] = sign * beyond
        refused(linear_of({"weight": weight}, dtype=stored), "Linear.from_torch: weight holds", f"infinite in {stored}", "wider")
        refused(stack_of({"0.weight": weight}, dtype=stored), "Sequential.from_torch: 0.weight holds", f"infinite in {stored}")
        # Without a dtype nothing is narrowed.
        assert pb.Linear.from_torch({"weight": weight}).weight.T.tobytes() == weight.tobytes()


@about("a dtype")
def test_a_wide_bias_beside_a_narrow_weight():
    weight, x = np.eye(2, dtype=np.float16), np.zeros((1, 2), np.float32)
    bias = np.array([1e5, 0.1], np.float32)
    for layer in (pb.Linear.from_torch({"weight": weight, "bias": bias}), pb.Sequential.from_torch({"0.weight": weight, "0.bias": bias})[0]):
        assert layer.dtype == np.float16 and layer(x).tobytes() == bias.tobytes()
    # A narrow bias beside a wide weight loses nothing.
    layer = pb.Linear.from_torch({"weight": weight.astype(np.float64), "bias": bias})
    assert layer.dtype == np.float64 and layer.bias.tolist() == bias.tolist()
    # A bias is kept in what is computed in: wider ones are taken where that rounds nothing, or was asked for.
    for narrow in (np.float16, np.float32):
        state = {"weight": weight.astype(narrow), "bias": np.array([0.1, 0.2])}
        refused(linear_of(state), "bias has dtype float64", f"weight has dtype {np.dtype(narrow)}", "say which dtype", error=TypeError)
        assert pb.Linear.from_torch(state, dtype="float32").bias.tolist() == np.array([0.1, 0.2], np.float32).tolist()
        assert pb.Linear.from_torch(state, dtype="float64").bias.tolist() == [0.1, 0.2]
        assert pb.Linear.from_torch({**state, "bias": np.zeros(2)}).dtype == narrow
        refused(linear_of({**state, "bias": np.array([1e39, 0])}, dtype="float32"), "bias holds 1e+39")


@about("an object with a weight")
def test_objects_that_hold_a_weight():
    class Conv1D(Linear):
        pass

    class Mixed:
        def forward(self, x):
            return x

    weight = square()
    refused(linear_of(Conv1D(weight)), "Conv1D", error=TypeError)
    adapted = Linear(weight)
    adapted.lora_A = adapted.lora_B = Tensor(weight)
    refused(linear_of(adapted), "not", "Linear", error=TypeError)
    for methods in ({"forward": lambda self, x: x}, {"__call__": lambda self, x: x}):
        refused(linear_of(type("Linear", (Linear,), methods)(weight)), "Linear", error=TypeError)
    for other in (3, None, "weight", [weight], weight, Mixed(), Linear, lambda: 3):
        refused(linear_of(other), "Linear.from_torch: module must be", error=TypeError)
        refused(stack_of(other), "Sequential.from_torch: module must be", error=TypeError)
    refused(stack_of(type("Sequential", (), {"named_children": lambda self: [("0", Linear(weight))]})()), "Sequential", error=TypeError)


# --- scikit-learn -----------------------------------------------------------------------------------------------------------------


class Fitted:
    """Layers alone."""

    def __init__(self, **changes):
        self.coefs_, self.intercepts_ = [normal((3, 4), np.dtype("f8")), normal((4, 2), np.dtype("f8"))], [np.zeros(4), np.zeros(2)]
        self.activation, self.out_activation_ = "relu", "identity"
        vars(self).update(changes)


def network_of(**changes):
    return lambda: pb.from_sklearn(Fitted(**changes))


@about("layers of a network")
def test_layers_that_do_not_fit_together():
    fitted = Fitted()
    for changes, words in [
        ({"coefs_": fitted.coefs_[:1]}, ["1 coefs_", "2 intercepts_"]),
        ({"intercepts_": fitted.intercepts_[:1]}, ["2 coefs_", "1 intercepts_"]),
        ({"coefs_": [], "intercepts_": []}, ["0 coefs_"]),
        ({"n_layers_": 4}, ["2 coefs_", "4 layers"]),
        ({"n_features_in_": 5}, ["coefs_[0]", "(3, 4)", "(5, outputs)"]),
        ({"n_outputs_": 1}, ["1 outputs", "2"]),
        ({"coefs_": fitted.coefs_[::-1]}, ["coefs_[0]", "(4, 2)"]),
        ({"coefs_": [fitted.coefs_[0], np.ones((5, 2))]}, ["coefs_[1]", "(5, 2)", "(4, outputs)"]),
        ({"intercepts_": [np.zeros(4), np.zeros(1)]}, ["intercepts_[1]", "(1,)"]),
        ({"intercepts_": [np.zeros(4), np.array(0.0)]}, ["intercepts_[1]"]),
        ({"coefs_": [np.ones(4), np.ones((4, 2))]}, ["coefs_[0]"]),
        ({"activation": "gelu"}, ["activation 'gelu'"]),
        ({"activation": "softmax"}, ["activation 'softmax'"]),
        ({"activation": ["relu"]}, ["activation ['relu']"]),
        ({"out_activation_": None}, ["out_activation_ None"]),
        ({"out_activation_": "exp"}, ["out_activation_ 'exp'", "numpy.exp"]),
    ]:
        refused(network_of(**changes), "from_sklearn: ", *words)
    for changes, words in [
        ({"coefs_": [fitted.coefs_[0].astype("f4"), fitted.coefs_[1]]}, ["float32, float64"]),
        ({"coefs_": [np.ones((3, 4), int), fitted.coefs_[1]]}, ["coefs_[0]", "int64"]),
        ({"intercepts_": [np.ma.masked_array(np.zeros(4), [1, 0, 0, 0]), np.zeros(2)]}, ["intercepts_[0]", "mask"]),
        ({"predict": lambda x: x}, ["Fitted"]),
    ]:
        refused(network_of(**changes), "from_sklearn: ", *words, error=TypeError)
    refused(lambda: pb.from_sklearn(Fitted(coefs_=[1e5 * np.ones((3, 4)), np.ones((4, 2))]), dtype="float16"), "layer 0, weight holds 100000.0")
    assert pb.from_sklearn(Fitted(coefs_=[np.asfortranarray(one) for one in fitted.coefs_]))(np.ones((1, 3))).shape == (1, 2)


@pytest.fixture(scope="module")
def data():
    pytest.importorskip("sklearn")
    from sklearn.datasets import load_iris

    return load_iris(return_X_y=True)


def network(kind, x, y, **settings):
    import warnings

    from sklearn import neural_network
    from sklearn.exceptions import ConvergenceWarning

    model = (kind if isinstance(kind, type) else getattr(neural_network, kind))(hidden_layer_sizes=(7, 5), max_iter=4, random_state=0, **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(x, y)


def agree(model, x):
    ours = pb.from_sklearn(model)(x)
    if hasattr(model, "predict_proba"):
        expected = model.predict_proba(x)
        expected = expected[:, 1:] if ours.shape[1] == 1 else expected
    else:
        expected = model.predict(x)
    np.testing.assert_allclose(ours, expected.reshape(ours.shape), rtol=1e-9, atol=1e-12)


@about("a network of scikit-learn", "layers of a network")
def test_networks_of_scikit_learn(data):
    x, y = data
    import scipy.sparse

    labels = np.stack([y == 0, y > 1], axis=1).astype(int)
    for targets in (y, y > 0, labels):
        agree(network("MLPClassifier", x, targets), x)
    for targets in (x[:, 0], x[:, :2]):
        agree(network("MLPRegressor", x, targets), x)
    agree(network("MLPClassifier", scipy.sparse.csr_matrix(x), y), x)
    model = network("MLPClassifier", x, y, warm_start=True, early_stopping=True)
    agree(model, x)
    agree(network("MLPClassifier", x, y).partial_fit(x, y), x)
    # What is set after fitting counts for predictions too.
    agree(model.set_params(activation="tanh"), x)
    single = network("MLPRegressor", x.astype("f4"), x[:, 0].astype("f4"))
    assert pb.from_sklearn(single).dtypes == ("float32",)


@about("layers of a network")
def test_a_network_that_ends_with_exp(data):
    x, y = data
    from sklearn.neural_network import MLPRegressor

    if "loss" not in MLPRegressor().get_params():
        pytest.skip("this version of scikit-learn has no Poisson loss")
    model = network("MLPRegressor", x, y + 1.0, loss="poisson")
    refused(lambda: pb.from_sklearn(model), "MLPRegressor has out_activation_ 'exp'", "numpy.exp")
    import copy

    linear = copy.copy(model)
    linear.out_activation_ = "identity"
    np.testing.assert_allclose(np.exp(pb.from_sklearn(linear)(x))[:, 0], model.predict(x), rtol=1e-9)


@about("a network of scikit-learn")
def test_models_that_are_no_plain_network(data):
    x, y = data
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV
    from sklearn.neural_network import BernoulliRBM, MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    class Mine(MLPClassifier):
        """Says so."""

        def helper(self):
            return 3

    class Other(MLPClassifier):
        def predict_proba(self, x):
            return super().predict_proba(x) ** 2

    class Inside(MLPClassifier):
        def _forward_pass_fast(self, x, **arguments):
            return 1 - super()._forward_pass_fast(x, **arguments)

    agree(network(Mine, x, y), x)
    for kind, method in ((Other, "predict_proba"), (Inside, "_forward_pass_fast")):
        refused(lambda kind=kind: pb.from_sklearn(network(kind, x, y)), kind.__name__, f"{method} of its own", error=TypeError)
    model = network("MLPClassifier", x, y)
    model.predict_proba = lambda x: x
    refused(lambda: pb.from_sklearn(model), "predict_proba of its own", error=TypeError)
    for other, words in [
        (make_pipeline(StandardScaler(), network("MLPClassifier", x, y)), ["Pipeline", "last step"]),
        (LogisticRegression(), ["LogisticRegression"]),
        (BernoulliRBM(), ["BernoulliRBM"]),
        (MLPClassifier(), ["not MLPClassifier", "coefs_", "call fit first"]),
        (MLPClassifier, ["MLPClassifier"]),
    ]:
        refused(lambda other=other: pb.from_sklearn(other), "from_sklearn: model must be a fitted MLPClassifier or MLPRegressor, ", *words,
                error=TypeError)
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        search = GridSearchCV(MLPClassifier(hidden_layer_sizes=(3,), max_iter=2), {"alpha": [0.1]}, cv=2).fit(x, y)
    refused(lambda: pb.from_sklearn(search), "GridSearchCV", "best_estimator_", error=TypeError)
    model = network("MLPClassifier", x, y)
    model.coefs_[1] = model.coefs_[1][:5]
    refused(lambda: pb.from_sklearn(model), "coefs_[1] has shape (5, 5)")


# --- Random ones ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["torch", "sklearn", "state"])
def test_random_models_and_state_dicts(kind):
    import fuzz_converters

    pytest.importorskip(fuzz_converters.KINDS[kind][0])
    ended = fuzz_converters.run(kind, 300, 2026)
    # Enough of both, so that neither answer is tried by accident only.
    assert ended["taken"] > 100 and ended["refused"] > 60
