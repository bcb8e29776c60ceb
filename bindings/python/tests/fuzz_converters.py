"""What converters make of random modules of PyTorch, networks of scikit-learn and state dicts, against what those give.

Each case is either as its package has it, and then must be converted and give what that gives; or it was changed in some way,
and then must give that too or be refused. `python fuzz_converters.py 10000` tries as many of each, a second number says which;
`make fuzz` runs it. What is not installed is left out.
"""

from __future__ import annotations

import contextlib
import importlib
import random
import sys
import time
import warnings

import numpy as np

import polyglot_bridge as pb

ACTIVATIONS = [None, "relu", "sigmoid", "tanh", "silu", "gelu", "gelu_tanh"]


def close(ours, expected, bound):
    """Whether two results are the same but for rounding, whose size goes with that of the largest number in a row."""
    if ours.shape != expected.shape or ours.dtype != expected.dtype:
        return False
    ours, expected = ours.astype(np.float64), expected.astype(np.float64)
    size = np.maximum(np.abs(expected).max(-1, keepdims=True, initial=0), 1)
    same = np.isnan(expected) & np.isnan(ours) | (ours == expected)
    return bool((same | (np.abs(ours - expected) <= bound * size)).all())


def judged(what, convert, x, expected, bound, plain):
    """How a case ended; AssertionError where that is wrong. `expected` is None where the package itself fails."""
    try:
        layers = convert()
    except (ValueError, TypeError) as error:
        assert str(error).startswith(("Sequential.from_torch: ", "Linear.from_torch: ", "from_sklearn: ")), f"{what}: {error}"
        assert len(str(error)) < 2000
        assert not plain, f"{what}: was refused: {error}"
        return "refused"
    assert expected is not None or not plain, f"{what}: its own package fails"
    if expected is not None:
        try:
            ours = layers(x)
        except TypeError as error:
            # Where parts differ in dtype its package widens; this one says which dtype it takes.
            assert not plain and "the layers take" in str(error), f"{what}: {error}"
            return "refused when called"
        assert close(ours, expected, bound), f"{what}: {layers!r}\n{ours!r:.500}\n{expected!r:.500}"
    return "taken"


# --- PyTorch ----------------------------------------------------------------------------------------------------------------------


class Modules:
    """Random modules."""

    def __init__(self, torch, chance):
        self.torch, self.nn, self.chance = torch, torch.nn, chance
        self.made = []
        torch.manual_seed(chance.randrange(2**31))

    def linear(self, k, n):
        chance, utils = self.chance, self.nn.utils
        module = self.nn.Linear(k, n, bias=chance.random() < 0.7)
        kind = chance.randrange(10)
        if kind == 0:
            return utils.weight_norm(module)
        if kind == 1:
            return utils.spectral_norm(module)
        if kind == 2:
            return utils.parametrizations.weight_norm(module)
        if kind == 3:
            return utils.parametrizations.spectral_norm(module)
        if kind == 4:
            return utils.parametrizations.orthogonal(module)
        if kind == 5 and module.bias is not None:
            return utils.weight_norm(utils.weight_norm(module), "bias", dim=None)
        return module

    def norm(self, n):
        chance = self.chance
        eps = chance.choice([1e-5, 1e-3, 0.5])
        if chance.random() < 0.5 or not hasattr(self.nn, "RMSNorm"):
            return self.nn.LayerNorm(n, eps=eps, elementwise_affine=chance.random() < 0.7)
        affine = chance.random() < 0.7
        return self.nn.RMSNorm(n, eps=chance.choice([eps, None]) if affine else eps, elementwise_affine=affine)

    def small(self):
        nn, chance = self.nn, self.chance
        return chance.choice([
            nn.ReLU, lambda: nn.ReLU(inplace=True), nn.Sigmoid, nn.Tanh, nn.SiLU, nn.GELU, lambda: nn.GELU(approximate="tanh"),
            nn.Identity, nn.Dropout, nn.AlphaDropout, lambda: nn.Softmax(dim=-1), lambda: nn.LogSoftmax(dim=-1),
        ])()

    def leaf(self, k):
        """A module for rows of k, and how long they are after it; now and then one that is there already."""
        chance = self.chance
        fits = [pair for pair in self.made if pair[1] == k]
        if fits and chance.random() < 0.3:
            module, _, n = chance.choice(fits)
            return module, n
        kind = chance.random()
        if kind < 0.4:
            n = chance.choice([k, k, chance.randrange(1, 9)])
            module = self.linear(k, n)
        else:
            n = k
            module = self.norm(k) if kind < 0.55 else self.small()
        self.made.append((module, k, n))
        return module, n

    def stack(self, k, depth=0):
        chance, parts, first = self.chance, [], k
        for _ in range(chance.randrange(0 if depth else 1, 6)):
            module, k = self.stack(k, depth + 1) if chance.random() < 0.2 and depth < 4 else self.leaf(k)
            parts.append(module)
        if chance.random() < 0.1:
            module = type("Mine", (self.nn.Sequential,), {"helper": lambda self: 3})(*parts)
        else:
            module = self.nn.Sequential(*parts)
        if chance.random() < 0.3:
            self.made.append((module, first, k))
        return module, k


def hook(torch, chance, module):
    module.register_forward_hook(lambda module, x, y: y + 1)


def hook_before(torch, chance, module):
    module.register_forward_pre_hook(lambda module, x: (x[0] * 2,))


def quiet_hook(torch, chance, module):
    module.register_forward_hook(lambda module, x, y: None)


def own_forward(torch, chance, module):
    before = module.forward
    module.forward = lambda x: before(x) - 1


def training(torch, chance, module):
    module.train()


def own_class(torch, chance, module):
    def forward(self, x):
        return kind.forward(self, x) * 2

    kind = type(module)
    module.__class__ = type(kind.__name__, (kind,), {"forward": forward, "__module__": kind.__module__})


def own_call(torch, chance, module):
    def call(self, x):
        return kind.__call__(self, x) + 3

    kind = type(module)
    module.__class__ = type(kind.__name__, (kind,), {"__call__": call})


def other_dim(torch, chance, module):
    module.dim = chance.choice([0, 1, -2, None])


def other_dtype(torch, chance, module):
    module.to(chance.choice([torch.float16, torch.bfloat16, torch.float32, torch.float64]))


def parametrized(torch, chance, module):
    class Halved(torch.nn.Module):
        def forward(self, weight):
            return weight / 2

    if getattr(module, "weight", None) is not None:
        torch.nn.utils.parametrize.register_parametrization(module, "weight", Halved())


def pruned(torch, chance, module):
    if getattr(module, "weight", None) is not None and module.weight.ndim == 2:
        importlib.import_module("torch.nn.utils.prune").random_unstructured(module, "weight", 0.5)


def buffered(torch, chance, module):
    module.register_buffer("more", torch.ones(1))


def tensor_instead(torch, chance, module):
    if "weight" in module._parameters and module.weight is not None:
        weight = module.weight.detach()
        del module.weight
        module.weight = chance.choice([weight * 2, weight.to_sparse(), weight.to("meta"), weight.to(torch.int8), weight.flip(0)])


def stranger(torch, chance, module):
    nn = torch.nn
    if isinstance(module, nn.Sequential):
        module.append(chance.choice([nn.LeakyReLU, nn.ELU, nn.Flatten, nn.ModuleList, nn.Hardswish, nn.Softplus, nn.LazyBatchNorm1d])())


def everywhere(torch, chance, module):
    return torch.nn.modules.module.register_module_forward_hook(lambda module, x, y: y + 0.5)


CHANGES = [hook, hook_before, quiet_hook, own_forward, training, own_class, own_call, other_dim, other_dtype, parametrized, pruned,
           buffered, tensor_instead, stranger, everywhere]


def stale(torch, chance, module):
    """What a weight is computed of changes, and no call refreshes it."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)


def torch_case(chance):
    torch = importlib.import_module("torch")
    modules = Modules(torch, chance)
    width = chance.randrange(1, 9)
    module, _ = modules.stack(width)
    module.eval()
    dtype = chance.choice([torch.float64, torch.float64, torch.float32])
    module.to(dtype)
    shape = [chance.randrange(1, 5) for _ in range(chance.choice([0, 1, 1, 2]))]
    x = torch.randn(*shape, width, dtype=dtype) * chance.choice([1.0, 1e-3, 30.0])
    if chance.random() < 0.5:
        module(x.clone())
    changes, handles = [], []
    if chance.random() < 0.5:
        stale(torch, chance, module)
    # Those that a stack calls: what lies in parametrizations is no layer.
    parts = [part for part in module.modules() if type(part).__module__.startswith(("torch.nn.modules", __name__))]
    try:
        for _ in range(chance.choice([0, 0, 1, 1, 2])):
            change, part = chance.choice(CHANGES), chance.choice(parts)
            if change is other_dim and not hasattr(part, "dim"):
                continue
            changes.append(change.__name__)
            # PyTorch refuses some changes itself, after part of them.
            with contextlib.suppress(ValueError, RuntimeError, KeyError, AttributeError, TypeError):
                handles.append(change(torch, chance, part))
        bound = 1e-9 if dtype == torch.float64 else 1e-3
        return judged_module(torch, module, x, bound, f"{changes} {module!r:.3000}", not changes)
    finally:
        for handle in handles:
            if handle is not None:
                handle.remove()


def judged_module(torch, module, x, bound, what, plain):
    before = {name: value.clone() for name, value in module.state_dict().items()
              if not torch.nn.parameter.is_lazy(value) and value.device.type != "meta"}
    try:
        layers = pb.Sequential.from_torch(module)
    except (ValueError, TypeError) as error:
        layers, refusal = None, error
    after = module.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items() if value.layout == torch.strided), f"{what}: changed"
    try:
        with torch.no_grad():
            expected = module(x.clone()).numpy()
    except Exception:
        expected = None

    def convert():
        if layers is None:
            raise refusal
        return layers

    return judged(what, convert, x.numpy(), expected, bound, plain)


# --- scikit-learn -----------------------------------------------------------------------------------------------------------------


def sklearn_case(chance):
    networks = importlib.import_module("sklearn.neural_network")
    generator = np.random.default_rng(chance.randrange(2**32))
    dtype = chance.choice([np.float64, np.float64, np.float32])
    rows, width = 12, chance.randrange(1, 6)
    x = generator.standard_normal((rows, width)).astype(dtype)
    classifies = chance.random() < 0.5
    kind = networks.MLPClassifier if classifies else networks.MLPRegressor
    plain = True
    if chance.random() < 0.2:
        changed = chance.choice([None, "predict_proba" if classifies else "predict", "_forward_pass_fast"])
        kind = derived(kind, changed)
        plain = changed is None
    settings = {"hidden_layer_sizes": tuple(chance.randrange(1, 6) for _ in range(chance.randrange(0, 4))),
                "activation": chance.choice(["identity", "logistic", "tanh", "relu"]), "max_iter": 1, "warm_start": chance.random() < 0.2,
                "solver": chance.choice(["sgd", "adam"]), "random_state": chance.randrange(100)}
    if classifies:
        y = chance.choice([np.arange(rows) % 3, np.arange(rows) % 2, np.stack([np.arange(rows) % 2, np.arange(rows) // 6], 1), np.array(list("abab" * 3))])
    else:
        y = generator.standard_normal(rows if chance.random() < 0.5 else (rows, 2)).astype(dtype)
        if chance.random() < 0.15 and "loss" in kind().get_params():
            settings["loss"], y, plain = "poisson", np.abs(y), False
    data = importlib.import_module("scipy.sparse").csr_matrix(x) if chance.random() < 0.2 else x
    model = kind(**settings).fit(data, y)
    if chance.random() < 0.3:
        model.partial_fit(data, y)
    for one in (*model.coefs_, *model.intercepts_):
        one *= chance.choice([1, 3, -1])
    changes = []
    if chance.random() < 0.5:
        change = chance.choice(SKLEARN_CHANGES)
        changes.append(change.__name__)
        change(model, chance)
        plain = plain and change is resettled
    with np.errstate(all="ignore"):
        try:
            expected = model.predict_proba(x) if classifies else model.predict(x)
        except Exception:
            expected = None
    if expected is not None:
        expected = np.asarray(expected)
        if classifies and model.n_outputs_ == 1:
            expected = expected[:, 1:]
        expected = expected.reshape(rows, -1) if expected.ndim == 1 else expected
    return judged(f"{changes} {model!r} {[one.shape for one in map(np.asarray, model.coefs_)]}", lambda: pb.from_sklearn(model), x, expected,
                  1e-9 if dtype == np.float64 else 1e-4, plain)


def derived(kind, changed):
    def method(self, *arguments, **named):
        return getattr(kind, changed)(self, *arguments, **named) * 2

    return type(kind.__name__, (kind,), {changed: method} if changed else {"helper": lambda self: 3})


def resettled(model, chance):
    model.set_params(activation=chance.choice(["identity", "logistic", "tanh", "relu"]))


def other_activation(model, chance):
    model.activation = chance.choice(["softmax", "exp", "gelu", None, 3])


def other_end(model, chance):
    model.out_activation_ = chance.choice(["relu", "tanh", "exp", "identity", "logistic", "softmax", "gelu", None])


def cut(model, chance):
    index = chance.randrange(len(model.coefs_))
    model.coefs_[index] = model.coefs_[index][:, : chance.randrange(3)] if chance.random() < 0.5 else model.coefs_[index][: chance.randrange(3)]


def dropped(model, chance):
    (model.coefs_ if chance.random() < 0.5 else model.intercepts_).pop()


def shortened(model, chance):
    model.coefs_.pop()
    model.intercepts_.pop()


def broadcast(model, chance):
    index = chance.randrange(len(model.coefs_))
    model.intercepts_[index] = chance.choice([np.zeros(1), np.array(0.5), np.zeros((1, model.intercepts_[index].size))])


def retyped(model, chance):
    index = chance.randrange(len(model.coefs_))
    model.coefs_[index] = model.coefs_[index].astype(chance.choice(["f2", "f4", "f8", "i8", "c16", "O"]))


def masked(model, chance):
    index = chance.randrange(len(model.coefs_))
    weight = model.coefs_[index]
    model.coefs_[index] = np.ma.masked_array(weight, np.random.default_rng(0).random(weight.shape) < 0.3)


def own_method(model, chance):
    before = model._forward_pass_fast
    model._forward_pass_fast = lambda *arguments, **named: 1 - before(*arguments, **named)


SKLEARN_CHANGES = [resettled, other_activation, other_end, cut, dropped, shortened, broadcast, retyped, masked, own_method]


# --- State dicts ------------------------------------------------------------------------------------------------------------------


def state_case(chance):
    """A state dict is made of a known order: where its names tell that, it must be kept, and else refused."""
    generator = np.random.default_rng(chance.randrange(2**32))
    count = chance.randrange(1, 6)
    name = chance.choice(["{}.", "net.{}.", "layers.{}.fc.", "fc{}.", "a.b{}c.", "{0}.{0}.", "block{}.linear."])
    numbers = sorted(chance.sample(range(chance.choice([count, 12, 300])) if count <= 12 else range(300), count))
    prefixes = [name.format(number) for number in numbers]
    widths = [chance.randrange(0, 6) or 3 for _ in range(count + 1)]
    kinds = [np.dtype(chance.choice(["f2", "f4", "f8"]))] * count
    state, layers = {}, []
    for prefix, k, n, dtype in zip(prefixes, widths, widths[1:], kinds):
        weight, bias = generator.standard_normal((n, k)).astype(dtype), generator.standard_normal(n).astype(dtype)
        state[f"{prefix}weight"] = arranged(chance, weight)
        layers.append((weight, bias if chance.random() < 0.7 else None))
        if layers[-1][1] is not None:
            state[f"{prefix}bias"] = arranged(chance, bias)
    activation = chance.choice(ACTIVATIONS)
    wrong = chance.random() < 0.4
    told = True
    if wrong:
        told = damage(chance, state, prefixes)
    items = list(state.items())
    chance.shuffle(items)
    x = generator.standard_normal((3, widths[0])).astype(kinds[0])
    expected = x
    for index, (weight, bias) in enumerate(layers):
        expected = pb.linear(expected, weight.T, bias, activation=None if index == count - 1 else activation)
    return judged(f"{items!r:.2000}", lambda: pb.Sequential.from_torch(dict(items), activation=activation), x, expected if told else None, 0, not wrong)


def arranged(chance, array):
    """The same numbers in another order of memory."""
    kind = chance.randrange(4)
    if kind == 0:
        return np.asfortranarray(array)
    if kind == 1:
        return array.astype(array.dtype.newbyteorder(">"))
    if kind == 2:
        wide = np.zeros([2 * size for size in array.shape], array.dtype)
        view = wide[tuple(slice(None, None, 2) for _ in array.shape)]
        view[...] = array
        return view
    return array


def damage(chance, state, prefixes):
    """Changes a state dict; returns whether it may still be taken, for what it was."""
    prefix = chance.choice(prefixes)
    weight = state[f"{prefix}weight"]
    kind = chance.randrange(8)
    if kind == 0:
        state[f"{prefix}{chance.choice(['lora_A.x', 'weight_scale', 'weight_g', 'running_mean'])}"] = np.ones(3)
    elif kind == 1:
        state[f"{chance.choice(['head.', 'z.y.', ''])}weight"] = np.eye(3, dtype=weight.dtype)
    elif kind == 2:
        state[f"{prefix}weight"] = weight.astype(chance.choice(["i1", "u1", "i8", "c8", "?", "O"]))
    elif kind == 3:
        state[f"{prefix}weight"] = np.ma.masked_array(weight, np.ones(weight.shape, bool))
    elif kind == 4:
        state[f"{prefix}bias"] = np.ones(weight.shape[0] + 1, weight.dtype)
    elif kind == 5:
        state[f"{prefix}weight"] = weight.reshape(-1)
    elif kind == 6:
        del state[f"{prefix}weight"]
        state[f"{prefix}bias"] = np.ones(3, weight.dtype)
    else:
        state[f"x{prefix}0.weight"] = weight
    must_be_refused(state)
    return False


def must_be_refused(state):
    try:
        layers = pb.Sequential.from_torch(state)
    except (TypeError, ValueError):
        return
    raise AssertionError(f"taken: {state!r:.2000}\n{layers!r}")


# ----------------------------------------------------------------------------------------------------------------------------------

KINDS = {"torch": ("torch", torch_case), "sklearn": ("sklearn", sklearn_case), "state": ("numpy", state_case)}


def run(kind, count, seed):
    """Tries cases of a kind; returns how many ended how."""
    ended: dict[str, int] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number in range(count):
            chance = random.Random(f"{seed}.{number}")
            try:
                outcome = KINDS[kind][1](chance)
            except BaseException:
                print(f"case {number} of seed {seed} of {kind}", file=sys.stderr)
                raise
            ended[outcome] = ended.get(outcome, 0) + 1
    return ended


def main(count=10_000, seed=None):
    seed = random.randrange(2**32) if seed is None else seed
    for kind, (package, _) in KINDS.items():
        try:
            importlib.import_module(package)
        except ImportError:
            print(f"converters, {kind}: left out, as there is no {package}")
            continue
        begin = time.perf_counter()
        ended = run(kind, count, seed)
        counts = ", ".join(f"{number} {outcome}" for outcome, number in sorted(ended.items()))
        print(f"converters, {kind}: {count} cases of seed {seed}: {counts}, in {time.perf_counter() - begin:.0f} s", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
