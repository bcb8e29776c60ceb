"""PyTorch's modules: what becomes layers gives what the module gives, and all else is refused with a message that says what
to do. The table is in docs/contract.md.
"""

from __future__ import annotations

import copy
import importlib
import warnings

import numpy as np
import pytest
from test_convert import about

import polyglot_bridge as pb

# The first that has an RMSNorm.
torch = pytest.importorskip("torch", minversion="2.4")
nn, prune = torch.nn, importlib.import_module("torch.nn.utils.prune")
parametrize, parametrizations = torch.nn.utils.parametrize, torch.nn.utils.parametrizations


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
    with warnings.catch_warnings():
        # PyTorch calls its older weight_norm deprecated, and its lazy modules new.
        warnings.simplefilter("ignore", FutureWarning)
        warnings.filterwarnings("ignore", ".*(deprecated|Lazy modules)", UserWarning)
        yield


def given(module, x):
    with torch.no_grad():
        return module(x).detach().float().numpy() if x.dtype == torch.bfloat16 else module(x).detach().numpy()


def same(module, x, tolerance=1e-5, **arguments):
    """Converts a module and compares; the module is called afterwards, which may refresh what it keeps."""
    layers = pb.Sequential.from_torch(module, **arguments)
    ours = layers(x.numpy())
    expected = given(module, x)
    assert ours.dtype == expected.dtype
    np.testing.assert_allclose(ours, expected, rtol=tolerance, atol=tolerance)
    return layers


def refused(module, *words, by=pb.Sequential.from_torch, error=ValueError):
    with pytest.raises(error) as raised:
        by(module)
    for word in words:
        assert word in str(raised.value), str(raised.value)


# --- Modules that hold modules --------------------------------------------------------------------------------------------------


def identity(factor):
    layer = nn.Linear(2, 2, bias=False)
    layer.weight.data = factor * torch.eye(2)
    return layer


@about("modules in modules")
def test_a_module_is_called_as_often_as_it_is_there():
    relu = nn.ReLU()
    module = nn.Sequential(identity(1.0), relu, identity(-1.0), relu)
    x = torch.tensor([[1.0, -2.0]])
    assert same(module, x)(x.numpy()).tolist() == [[0.0, 0.0]]
    layer, norm, inner = nn.Linear(5, 5), nn.LayerNorm(5), nn.Sequential(nn.Linear(5, 5), nn.Tanh())
    layers = same(nn.Sequential(layer, norm, layer, nn.GELU(), inner, norm, inner, layer), torch.randn(4, 5))
    # GELU lies in the layer before it.
    assert len(layers) == 7


@about("modules in modules")
def test_stacks_within_stacks_in_the_order_that_they_are_called():
    module = nn.Sequential()
    module.add_module("last by name", nn.Linear(4, 6))
    module.add_module("a", nn.Sequential(nn.ReLU(), nn.Sequential(nn.Linear(6, 5)), nn.Sequential()))
    module.add_module("0", nn.Softmax(dim=-1))
    same(module, torch.randn(3, 4))
    same(nn.Sequential(), torch.randn(3, 4))
    deep = nn.Linear(3, 3)
    for _ in range(5000):
        deep = nn.Sequential(deep)
    assert pb.Sequential.from_torch(deep).in_features == 3


@about("modules in modules")
def test_stacks_without_an_end_are_refused(monkeypatch):
    module = nn.Sequential(nn.ReLU())
    module._modules["1"] = module
    refused(module, "1.Sequential holds itself")
    module = nn.ReLU()
    for _ in range(30):
        module = nn.Sequential(module, module)
    monkeypatch.setattr("polyglot_bridge._torch._MOST_LAYERS", 1000)
    refused(module, "more than 1000 layers")
    module = nn.Sequential(nn.ReLU())
    module._modules["0"] = None
    refused(module, "0.NoneType is no layer")


@about("modules in modules")
def test_a_list_of_modules_does_not_say_how_they_are_called():
    refused(nn.ModuleList([nn.Linear(2, 2)]), "ModuleList", "torch.nn.Sequential(*modules)")
    refused(nn.Sequential(nn.ModuleDict({"x": nn.Linear(2, 2)})), "0.ModuleDict", "Sequential")


# --- Weights that are computed --------------------------------------------------------------------------------------------------


def old_weight_norm(module):
    return nn.utils.weight_norm(module)


def old_spectral_norm(module):
    return nn.utils.spectral_norm(module).eval()


def new_spectral_norm(module):
    return parametrizations.spectral_norm(module).eval()


NORMS = [old_weight_norm, parametrizations.weight_norm, old_spectral_norm, new_spectral_norm, parametrizations.orthogonal]


@about("a weight that is computed")
@pytest.mark.parametrize("norm", NORMS)
def test_a_normed_weight_is_that_of_the_next_call(norm):
    module, other = norm(nn.Linear(6, 4)), norm(nn.Linear(6, 4))
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(2.5).add_(0.3)
    x = torch.randn(3, 6)
    given(module, x)
    # From here on the weight that the module keeps is stale, until it is called.
    module.load_state_dict(other.state_dict())
    before = {name: value.clone() for name, value in module.state_dict().items()}
    single = pb.Linear.from_torch(module)(x.numpy())
    same(nn.Sequential(module, nn.ReLU()), x)
    np.testing.assert_allclose(single, given(module, x), rtol=1e-5, atol=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


@about("a weight that is computed")
def test_a_norm_of_a_bias_and_two_norms_at_once():
    module = nn.utils.weight_norm(nn.utils.weight_norm(nn.Linear(5, 4)), "bias", dim=None)
    with torch.no_grad():
        module.bias_g.mul_(3)
    same(module, torch.randn(2, 5))
    module = parametrizations.weight_norm(parametrizations.orthogonal(nn.Linear(4, 4)), "bias", dim=None)
    same(module, torch.randn(2, 4))


@about("a weight that is computed")
@pytest.mark.parametrize("norm", [nn.utils.spectral_norm, parametrizations.spectral_norm])
def test_a_spectral_norm_in_training_changes_with_each_call(norm):
    refused(nn.Sequential(norm(nn.Linear(4, 4))), "0.Linear" if norm is nn.utils.spectral_norm else "0.", "eval()")


class Doubled(nn.Module):
    def forward(self, weight):
        return weight * 2


@about("a weight that is computed")
def test_other_parametrizations_are_refused():
    module = nn.Linear(3, 3)
    parametrize.register_parametrization(module, "weight", Doubled())
    refused(nn.Sequential(module), "0.ParametrizedLinear.weight", "Doubled", "remove_parametrizations")
    refused(module, "Doubled", by=pb.Linear.from_torch)
    parametrize.remove_parametrizations(module, "weight")
    same(module, torch.randn(2, 3))
    module = parametrizations.weight_norm(nn.Linear(3, 3))
    module.parametrizations.weight[0].register_forward_hook(lambda *_: None)
    refused(module, "_WeightNorm", "hook")
    # A property that is not parametrize's.
    module = parametrizations.weight_norm(nn.Linear(3, 3))
    type(module).bias = property(lambda self: torch.ones(3))
    refused(module, "has a bias of its own")


@about("a weight that is computed")
def test_pruned_weights_are_refused():
    module = nn.Linear(3, 3)
    prune.random_unstructured(module, "weight", 0.5)
    refused(module, "torch.nn.utils.prune.remove")
    prune.remove(module, "weight")
    same(module, torch.randn(2, 3))


# --- What else may be done to a module ------------------------------------------------------------------------------------------


def hooked(module):
    module.register_forward_hook(lambda module, x, y: y + 1)


def hooked_before(module):
    module.register_forward_pre_hook(lambda module, x: (x[0] + 1,))


def own_forward(module):
    module.forward = lambda x: x + 1


def own_call(module):
    module._call_impl = lambda x: x + 1


def compiled(module):
    module.compile()


def more_parameters(module):
    module.register_parameter("more", nn.Parameter(torch.ones(1)))


def more_buffers(module):
    module.register_buffer("more", torch.ones(1))


@about("a module that was changed")
@pytest.mark.parametrize("change", [hooked, hooked_before, own_forward, own_call, compiled, more_parameters, more_buffers])
@pytest.mark.parametrize(
    "make", [lambda: nn.Linear(3, 3), nn.ReLU, lambda: nn.LayerNorm(3), lambda: nn.Softmax(-1), nn.Identity, nn.Sequential]
)
def test_a_module_that_was_changed_is_refused(make, change):
    module = make()
    change(module)
    kind = type(module).__name__
    refused(nn.Sequential(nn.ReLU(), module), f"1.{kind} is no mere torch.nn.{kind}: ")
    if kind == "Linear":
        refused(module, "Linear is no mere torch.nn.Linear: ", by=pb.Linear.from_torch)


@about("a module that was changed")
def test_what_does_not_touch_the_forward_pass_is_taken():
    module = nn.Linear(3, 3)
    module.register_full_backward_hook(lambda *_: None)
    module._register_state_dict_hook(lambda *_: None)
    module.remark = "mine"
    module.weight.requires_grad_(False)
    same(module, torch.randn(2, 3))
    handle = module.register_forward_hook(lambda module, x, y: y + 1)
    handle.remove()
    same(module, torch.randn(2, 3))
    # A weight need not be a parameter for the forward pass to use it.
    del module.weight
    module.weight = torch.randn(3, 3)
    same(module, torch.randn(2, 3))
    del module.bias
    module.register_buffer("bias", torch.randn(3))
    same(module, torch.randn(2, 3))


@about("a module that was changed")
@pytest.mark.parametrize("name", ["register_module_forward_hook", "register_module_forward_pre_hook"])
def test_hooks_of_all_modules_are_refused(name):
    handle = getattr(nn.modules.module, name)(lambda *_: None)
    try:
        refused(nn.Sequential(nn.ReLU()), "hooks for the forward pass of all modules")
        refused(nn.Linear(2, 2), "hooks", by=pb.Linear.from_torch)
    finally:
        handle.remove()


@about("a module that was changed")
@pytest.mark.parametrize("kind, name", [(nn.Linear, "forward"), (nn.Module, "_call_impl"), (nn.ReLU, "forward")])
def test_a_class_that_was_patched_is_refused(monkeypatch, kind, name):
    before = getattr(kind, name)

    def patched(self, *x):
        return before(self, *x) + 1

    monkeypatch.setattr(kind, name, patched)
    refused(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), f"{name} was replaced")


class Mine(nn.Linear):
    """A remark."""

    def __init__(self, width):
        super().__init__(width, width)
        self.width = width

    def helper(self):
        return self.width

    def extra_repr(self):
        return "mine"


class MineTwice(Mine):
    def forward(self, x):
        return super().forward(x) * 2


class MineInStack(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(3, 4), nn.ReLU(), Mine(4))


class Halved:
    def forward(self, x):
        return super().forward(x) / 2


class MixedIn(Halved, nn.Linear):
    pass


class Before(nn.Module):
    def __call__(self, x):
        return super().__call__(x) + 1


class MixedInLate(nn.Linear, Before):
    pass


class ByProperty(nn.Linear):
    def __init__(self, *widths):
        nn.Module.__init__(self)
        self.half = torch.randn(*widths)
        self.bias = None

    @property
    def weight(self):
        return self.half * 2


class Reversed(nn.Sequential):
    def __iter__(self):
        return reversed(list(self._modules.values()))


class Linear(nn.Module):
    """Has the name, and an adapter of low rank."""

    def __init__(self, base):
        super().__init__()
        self.base = base
        self.lora_A, self.lora_B = nn.Linear(base.in_features, 2, bias=False), nn.Linear(2, base.out_features, bias=False)

    @property
    def weight(self):
        return self.base.weight

    @property
    def bias(self):
        return self.base.bias

    def forward(self, x):
        return self.base(x) + self.lora_B(self.lora_A(x))


@about("a module of a derived class")
def test_classes_derived_from_known_ones():
    same(MineInStack(), torch.randn(2, 3))
    assert pb.Linear.from_torch(Mine(3)).in_features == 3
    for module, words in [
        (MineTwice(3), ["MineTwice has a forward of its own"]),
        (MixedIn(3, 3), ["Halved has a forward of its own"]),
        (MixedInLate(3, 3), ["Before has a __call__ of its own"]),
        (ByProperty(3, 3), ["ByProperty has a weight of its own"]),
        (Reversed(nn.ReLU(), nn.Linear(3, 3)), ["Reversed has a __iter__ of its own"]),
    ]:
        refused(nn.Sequential(nn.ReLU(), module), f"1.{type(module).__name__} is no mere torch.nn.", *words)
    refused(nn.modules.linear.NonDynamicallyQuantizableLinear, "torch.nn.Module", error=TypeError)
    same(nn.modules.linear.NonDynamicallyQuantizableLinear(3, 3), torch.randn(2, 3))


@about("a module")
def test_classes_that_have_only_the_name():
    module = Linear(nn.Linear(3, 3))
    refused(nn.Sequential(module), "0.Linear is no layer", "test_convert_torch.Linear")
    refused(module, "module must be a torch.nn.Linear", "test_convert_torch.Linear", by=pb.Linear.from_torch, error=TypeError)
    for module in (nn.Embedding(3, 3), nn.Bilinear(3, 3, 3), nn.PReLU(), nn.LayerNorm(3), nn.BatchNorm1d(3)):
        refused(module, "torch.nn", type(module).__name__, by=pb.Linear.from_torch, error=TypeError)
    for name in ("BatchNorm1d", "Conv1d", "Flatten", "LeakyReLU", "Softplus"):
        module = getattr(nn, name)(*{"BatchNorm1d": [3], "Conv1d": [1, 1, 1]}.get(name, []))
        refused(nn.Sequential(nn.ReLU(), module.eval()), f"1.{name} is no layer that this package has", "one by one")
    refused(3, "not int", error=TypeError)
    refused(nn.Linear, error=TypeError)


@about("a module")
def test_wrappers_are_refused_and_say_what_is_inside():
    module = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    refused(nn.DataParallel(module), "pass its module")
    refused(torch.compile(module), "_orig_mod")
    refused(torch.fx.symbolic_trace(module), "pass the module that it was made of")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.script(module)
    refused(scripted, "pass the module that it was made of")
    refused(next(scripted.children()), "module must be a torch.nn.Linear", by=pb.Linear.from_torch, error=TypeError)
    refused(nn.Sequential(nn.LazyLinear(3)), "0.LazyLinear", "call the module once")
    lazy = nn.LazyLinear(3)
    lazy(torch.ones(1, 2))
    same(lazy, torch.randn(2, 2))


@about("a module")
def test_other_libraries():
    peft = pytest.importorskip("peft")
    inner = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    model = peft.get_peft_model(inner, peft.LoraConfig(target_modules=["0"], init_lora_weights=False))
    adapted = model.base_model.model[0]
    assert type(adapted).__name__ == "Linear"
    refused(adapted, "peft", by=pb.Linear.from_torch, error=TypeError)
    refused(model.base_model.model, "0.Linear", "peft")
    same(model.merge_and_unload(), torch.randn(2, 4))


@about("a module", "a state dict of one layer")
def test_a_weight_that_is_kept_the_other_way_round():
    utils = pytest.importorskip("transformers.pytorch_utils")
    module = utils.Conv1D(4, 4)
    refused(module, "Conv1D", "(in, out)", by=pb.Linear.from_torch, error=TypeError)
    refused(nn.Sequential(module), "0.Conv1D", "(in, out)")
    wide = utils.Conv1D(6, 4).state_dict()
    refused(wide, "(in, out)", by=pb.Linear.from_torch)
    refused({f"0.{name}": value for name, value in wide.items()}, "(in, out)")


# --- Training -------------------------------------------------------------------------------------------------------------------


@about("a module in training")
def test_dropout_in_training_is_random():
    module = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5), nn.AlphaDropout(0.1), nn.ReLU())
    refused(module, "1.Dropout is in training", "eval()")
    module[1].eval()
    refused(module, "2.AlphaDropout is in training")
    same(module.eval(), torch.randn(2, 3))
    # What drops nothing is nothing, and other modules do not mind.
    same(nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.0)).train(), torch.randn(2, 3))


# --- Parameters of modules ------------------------------------------------------------------------------------------------------


@about("a module")
@pytest.mark.parametrize("kind", [nn.Softmax, nn.LogSoftmax])
def test_softmax_goes_along_the_last_axis_only(kind):
    for dim in (1, 0, -2, 2, None):
        refused(nn.Sequential(nn.ReLU(), kind(dim=dim)), f"1.{kind.__name__} works along dim {dim}, expected -1", "set its dim to -1")
    same(kind(dim=-1), torch.randn(2, 3, 4))


def test_gelu():
    for approximate in ("none", "tanh"):
        same(nn.Sequential(nn.GELU(approximate=approximate)), torch.randn(2, 3))
    module = nn.GELU()
    module.approximate = "sigmoid"
    refused(module, "approximate 'sigmoid'")


@about("a module", "the eps of a norm")
def test_norms():
    for module in (
        nn.LayerNorm(3), nn.LayerNorm(3, bias=False), nn.LayerNorm(3, elementwise_affine=False), nn.LayerNorm(3, eps=0.25),
        nn.RMSNorm(3), nn.RMSNorm(3, eps=0.25), nn.RMSNorm(3, elementwise_affine=False, eps=1e-3),
    ):
        for parameter in module.parameters():
            parameter.data = torch.randn(3)
        same(module, torch.randn(2, 5, 3))
    refused(nn.Sequential(nn.LayerNorm((2, 3))), "0.LayerNorm goes over (2, 3), expected one axis")
    module = nn.LayerNorm(3)
    module.weight.data = torch.ones(4)
    refused(module, "LayerNorm.weight has shape (4,), expected (3,)")
    module = nn.LayerNorm(3)
    module.eps = None
    refused(module, "eps None")


@about("the eps of a norm")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_eps_that_an_rms_norm_has_by_itself(dtype):
    if dtype == torch.bfloat16:
        pytest.importorskip("ml_dtypes")
    module = nn.RMSNorm(2).to(dtype)
    tolerance = {torch.float16: 1e-3, torch.bfloat16: 8e-3}.get(dtype, 1e-6)
    for scale in (1.0, 1e-3, 1e-6):
        x = (scale * torch.tensor([[0.01, -0.02]])).to(dtype)
        layers = pb.Sequential.from_torch(module)
        ours = layers(x.numpy() if dtype != torch.bfloat16 else x.float().numpy().astype("bfloat16")).astype(np.float64)
        np.testing.assert_allclose(ours, given(module, x), rtol=tolerance)
    if dtype == torch.float16:
        x = np.array([[0.01, -0.02]], np.float16)
        np.testing.assert_allclose(pb.Sequential.from_torch(module)(x), [[0.632, -1.265]], atol=1e-3)


@about("the eps of a norm")
def test_the_eps_of_an_rms_norm_without_a_weight_follows_its_neighbours():
    norm = nn.RMSNorm(3, elementwise_affine=False)
    for dtype in (torch.float32, torch.float64):
        module = nn.Sequential(nn.Linear(3, 3, bias=False), norm).to(dtype)
        same(module, (1e-7 * torch.randn(4, 3)).to(dtype), 1e-4)
    refused(nn.Sequential(norm, nn.ReLU()), "0.RMSNorm has eps None", "give it an eps")


@about("a dtype")
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_dtypes_of_whole_stacks(dtype):
    module = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.LayerNorm(8), nn.Linear(8, 4), nn.RMSNorm(4), nn.Softmax(-1)).to(dtype)
    same(module, torch.randn(3, 8).to(dtype), {torch.float16: 5e-3, torch.float64: 1e-11}.get(dtype, 1e-5))
    x = torch.randn(3, 8).to(dtype)
    for stored in ("float16", "bfloat16", "float32", "float64"):
        layers = pb.Sequential.from_torch(module, dtype=stored)
        computed = "float64" if stored == "float64" else "float32"
        assert layers[0].dtype.name == stored and computed in layers.dtypes
        np.testing.assert_allclose(layers(x.numpy().astype(computed)), given(module.float(), x.float()), atol=2e-2)
        module.to(dtype)


def test_what_was_converted_is_a_copy():
    module = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3))
    x = torch.randn(2, 3)
    layers = pb.Sequential.from_torch(module)
    before = layers(x.numpy())
    for parameter in module.parameters():
        parameter.data.fill_(7)
    assert layers(x.numpy()).tobytes() == before.tobytes()


# --- Tensors --------------------------------------------------------------------------------------------------------------------


class Subclassed(torch.Tensor):
    pass


def tensors():
    yield "sparse", torch.eye(3).to_sparse(), "to_dense"
    yield "sparse rows", torch.eye(3).to_sparse_csr(), "to_dense"
    yield "meta", torch.ones(3, 3, device="meta"), "meta device"
    yield "complex", torch.ones(3, 3, dtype=torch.complex64), "complex64"
    yield "int8", torch.ones(3, 3, dtype=torch.int8), "scale"
    yield "uint8", torch.ones(3, 3, dtype=torch.uint8), "scale"
    yield "bool", torch.ones(3, 3, dtype=torch.bool), "bool"
    yield "float8", torch.ones(3, 3).to(torch.float8_e4m3fn), "float8_e4m3fn"
    yield "subclass", torch.ones(3, 3).as_subclass(Subclassed), "Subclassed"
    yield "lazy", nn.LazyLinear(3).weight, "call its module"
    without = torch.ones(3, 3)
    without.untyped_storage().resize_(0)
    yield "without memory", without, "no memory"
    if hasattr(torch, "quantize_per_tensor"):
        try:
            yield "quantized", torch.quantize_per_tensor(torch.ones(3, 3), 0.1, 0, torch.qint8), "dequantize"
        except (RuntimeError, NotImplementedError):
            pass


with warnings.catch_warnings():
    # Some kinds of tensors PyTorch calls new, others old.
    warnings.simplefilter("ignore")
    TENSORS = list(tensors())


@about("a tensor")
@pytest.mark.parametrize("name, tensor, word", TENSORS, ids=[name for name, *_ in TENSORS])
def test_tensors_that_are_more_or_less_than_their_numbers(name, tensor, word):
    refused({"weight": tensor}, "Linear.from_torch: weight ", word, by=pb.Linear.from_torch, error=TypeError)
    refused({"0.weight": tensor}, "Sequential.from_torch: 0.weight ", word, error=(TypeError, ValueError))
    module = nn.Linear(3, 3)
    del module.weight
    module.weight = tensor
    refused(nn.Sequential(module), "0.Linear.weight ", word, error=TypeError)
    refused({"weight": torch.ones(3, 3), "bias": tensor}, "bias", word, by=pb.Linear.from_torch, error=TypeError)


@about("a tensor")
def test_tensors_of_any_layout():
    wide = torch.randn(6, 8, requires_grad=True)
    for weight in (wide[::2, ::2], wide.t()[:3, :4], wide[:1, :1].expand(3, 4), torch.randn(4, 3).t()):
        layer = pb.Linear.from_torch({"weight": weight})
        assert np.array_equal(layer.weight.T, weight.detach().numpy())
    negative = torch.randn(3, 4, dtype=torch.complex64).conj().imag
    assert negative.is_neg()
    assert np.array_equal(pb.Linear.from_torch({"weight": negative}).weight.T, negative.resolve_neg().numpy())
    assert pb.Linear.from_torch({"weight": torch.zeros(0, 4)}).out_features == 0


@about("a tensor")
def test_bfloat16():
    weight, bias = torch.randn(3, 4).bfloat16(), torch.randn(3).bfloat16()
    layer = pb.Linear.from_torch({"weight": weight, "bias": bias})
    assert layer.dtype.name == "bfloat16"
    x = torch.randn(2, 4)
    np.testing.assert_allclose(layer(x.numpy()), given(lambda x: nn.functional.linear(x, weight.float(), bias.float()), x), rtol=1e-5)
    module = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.ReLU(), nn.Linear(4, 2)).bfloat16()
    ours = pb.Sequential.from_torch(module)(x.numpy())
    np.testing.assert_allclose(ours, given(copy.deepcopy(module).float(), x), rtol=1e-2, atol=1e-2)


@about("a dtype")
def test_a_wide_bias_beside_a_narrow_weight():
    state = {"weight": torch.ones(2, 2).half(), "bias": torch.tensor([1e5, 0.1])}
    layer = pb.Linear.from_torch(state)
    assert layer.dtype == np.float16 and layer.bias.tolist() == state["bias"].tolist()
    assert layer(np.zeros((1, 2), np.float32)).tolist() == [state["bias"].tolist()]
    state = {"weight": torch.ones(2, 2), "bias": torch.tensor([0.1, 0.2], dtype=torch.float64)}
    refused(state, "float64", "float32", by=pb.Linear.from_torch, error=TypeError)
    assert pb.Linear.from_torch(state, dtype="float32").bias.dtype == np.float32
    module = nn.Linear(2, 2).half()
    module.bias.data = torch.tensor([1e5, 0.0])
    assert pb.Linear.from_torch(module).bias[0] == 1e5


def test_bfloat16_tensors_as_arguments():
    pytest.importorskip("ml_dtypes")
    x = torch.randn(3, 5).bfloat16()
    expected = x.float().numpy().astype("bfloat16")
    result = pb.softmax(x)
    assert result.dtype.name == "bfloat16" and result.tobytes() == pb.softmax(expected).tobytes()
    assert pb.relu(x.T).tobytes() == pb.relu(expected.T).tobytes()
    with pytest.raises(TypeError, match="x is a tensor that cannot become an array as it is: pass x.detach"):
        pb.relu(x.clone().requires_grad_())
    with pytest.raises(TypeError, match="cannot become an array"):
        pb.relu(x.to("meta"))
