"""Whole models, made of the public kernels of this package: here are names of weights, shapes and the order of calls.

Loaded when it is first touched: ``import polyglot_bridge`` alone does not read this file. The forward pass is Python, as
its calls cost 0.2 ms in all, one hundredth of what a sentence of 69 tokens takes: Rust could win no more than that.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import numbers
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

import polyglot_bridge as pb

from . import _json
from ._safetensors import is_masked, load
from ._tensors import FLOATS, check_range, floats

__all__ = ["BertConfig", "BertEncoder"]

_Array: TypeAlias = npt.NDArray[Any]
_Path: TypeAlias = str | os.PathLike[str]

# Activations by the names that Hugging Face's configurations have for them, each over its input.
_ACTIVATIONS: dict[str, Callable[[_Array], _Array]] = {
    "gelu": lambda x: pb.gelu(x, out=x),
    "gelu_new": lambda x: pb.gelu(x, approximate="tanh", out=x),
    "gelu_pytorch_tanh": lambda x: pb.gelu(x, approximate="tanh", out=x),
    "relu": lambda x: pb.relu(x, out=x),
    "silu": lambda x: pb.silu(x, out=x),
    "swish": lambda x: pb.silu(x, out=x),
    "tanh": lambda x: pb.tanh(x, out=x),
}
# What lies beside weights in files of BERT models, and holds nothing that was learnt.
_BUFFERS = ("embeddings.position_ids", "embeddings.token_type_ids")
# A longer configuration is none.
_LONGEST_CONFIG = 1 << 24
# How many weights that do not fit a message names.
_NAMED = 8
# The tokens that go through a layer together, whole rows of them: what lies between its parts stays in a cache, and takes
# little memory.
_GROUP = 384


@dataclasses.dataclass(frozen=True)
class BertConfig:
    """The numbers of a BERT model that its weights' shapes follow from, under Hugging Face's names.

    Examples
    --------
    >>> from polyglot_bridge.models import BertConfig
    >>> BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536).vocab_size
    30522
    """

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    vocab_size: int = 30522
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-12
    position_embedding_type: str = "absolute"

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type == "int" and (type(value) is not int or value < 1):
                raise ValueError(f"{field.name} must be a positive integer, not {_json.shown(value)}")
        eps = self.layer_norm_eps
        if isinstance(eps, bool) or not isinstance(eps, numbers.Real) or not 0 <= eps < math.inf:
            raise ValueError(f"layer_norm_eps must be a number that is not negative, not {_json.shown(eps)}")
        if self.hidden_size % self.num_attention_heads:
            heads = self.num_attention_heads
            raise ValueError(f"hidden_size {self.hidden_size} is no multiple of num_attention_heads {heads}")
        if not isinstance(self.hidden_act, str) or self.hidden_act not in _ACTIVATIONS:
            raise ValueError(f"hidden_act must be one of {', '.join(_ACTIVATIONS)}, not {_json.shown(self.hidden_act)}")
        if self.position_embedding_type != "absolute":
            kind = _json.shown(self.position_embedding_type)
            raise ValueError(f"position_embedding_type must be absolute, not {kind}")

    @classmethod
    def from_json(cls, path: _Path) -> BertConfig:
        """Read a `config.json`; what is not needed here is ignored.

        Raises
        ------
        ValueError
            It is no configuration of a BERT encoder: the message names the file.
        """
        with open(path, "rb") as file:
            text = file.read(_LONGEST_CONFIG + 1)
        where = os.fsdecode(path)
        try:
            if len(text) > _LONGEST_CONFIG:
                raise ValueError(f"it has more than {_LONGEST_CONFIG} bytes")
            found = _json.parse(text, constants=True)
            if not isinstance(found, tuple):
                raise ValueError("expected an object")
            values = dict(found)
            family = values.get("model_type", "bert")
            if family != "bert":
                raise ValueError(f"model_type must be 'bert', not {_json.shown(family)}")
            if values.get("auto_map"):
                raise ValueError("auto_map names code of the model's own, which may compute anything")
            if values.get("quantization_config"):
                raise ValueError("quantization_config says that weights mean nothing without it")
            if "model_type" not in values:
                _check_kin(values)
            for key in ("is_decoder", "add_cross_attention"):
                if values.get(key, False) is not False:
                    raise ValueError(f"{key} must be false: this is an encoder")
        except ValueError as error:
            raise ValueError(f"{where}: no configuration of a BERT encoder: {error}") from None
        fields = dataclasses.fields(cls)
        missing = [one.name for one in fields if one.default is dataclasses.MISSING and one.name not in values]
        if missing:
            raise ValueError(f"{where} lacks {', '.join(missing)}")
        try:
            return cls(**{one.name: values[one.name] for one in fields if one.name in values})
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of each weight by its name."""
        return dict(self._shapes())

    def _shapes(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """The name and shape of each weight, one by one: there may be more than anybody has memory for."""
        hidden, wide = self.hidden_size, self.intermediate_size
        yield "embeddings.word_embeddings.weight", (self.vocab_size, hidden)
        yield "embeddings.position_embeddings.weight", (self.max_position_embeddings, hidden)
        yield "embeddings.token_type_embeddings.weight", (self.type_vocab_size, hidden)
        dense = {
            "attention.self.query": (hidden, hidden),
            "attention.self.key": (hidden, hidden),
            "attention.self.value": (hidden, hidden),
            "attention.output.dense": (hidden, hidden),
            "intermediate.dense": (wide, hidden),
            "output.dense": (hidden, wide),
        }
        layers = range(self.num_hidden_layers)
        for number in layers:
            for part, shape in dense.items():
                yield f"encoder.layer.{number}.{part}.weight", shape
                yield f"encoder.layer.{number}.{part}.bias", shape[:1]
        norms = (
            f"encoder.layer.{number}.{part}.LayerNorm" for number in layers for part in ("attention.output", "output")
        )
        for norm in itertools.chain(["embeddings.LayerNorm"], norms):
            yield f"{norm}.weight", (hidden,)
            yield f"{norm}.bias", (hidden,)


def _check_kin(values: Mapping[str, Any]) -> None:
    """ValueError where a configuration of no stated family is of another one than BERT.

    RoBERTa and its kin have the same shapes and names of weights, and count positions from another number on.
    """
    architectures = values.get("architectures")
    for name in architectures if isinstance(architectures, list) else [] if architectures is None else [architectures]:
        if not isinstance(name, str) or not name.startswith("Bert") or name.startswith("BertGeneration"):
            raise ValueError(f"it has no model_type, and architectures has {_json.shown(name)}")
    if values.get("pad_token_id", 0) != 0:
        raise ValueError("it has no model_type, and a pad_token_id other than BERT's")


def _select(found: Mapping[str, _Array], config: BertConfig) -> dict[str, _Array]:
    """Return the weights that a configuration asks for, their names with or without a prefix; say what is missing or of
    another shape. Stops soon where much is, whatever a configuration claims.
    """
    # Names that older files have for a layer norm's weight and bias.
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    chosen: dict[str, _Array] = {}
    taken: set[str] = set()
    wrong: list[str] = []
    for name, shape in config._shapes():
        stem, last = name.rsplit(".", 2)[0], ".".join(name.rsplit(".", 2)[1:])
        names = [name, f"{stem}.{old[last]}"] if last in old else [name]
        stored = next((p + one for one in names for p in ("", "bert.") if p + one in found), None)
        if stored is None:
            wrong.append(f"{name} of shape {shape} is missing")
        else:
            taken.add(stored)
            if is_masked(array := found[stored]):
                raise TypeError(f"{name} is a masked array, and its mask would be lost")
            dtype = getattr(array, "dtype", np.dtype(np.float64))
            if getattr(dtype, "name", str(dtype).removeprefix("torch.")) not in FLOATS:
                # Eight bits mean nothing without the scale that belongs to them.
                wrong.append(f"{name} has dtype {dtype}, expected floats of 16 bits or more")
            elif (array := floats(name, array).array).shape != shape:
                wrong.append(f"{name} has shape {array.shape}, expected {shape}")
            else:
                chosen[name] = array
        if len(wrong) > _NAMED:
            wrong[_NAMED:] = ["and more"]
            break
    if wrong:
        raise ValueError("these weights do not fit the configuration: " + "; ".join(wrong))
    more = next((name for name in found if name not in taken and _belongs(name, config)), None)
    if more is not None:
        raise ValueError(f"these weights are not a BERT encoder's alone: it has no {_json.shown(more)}")
    return chosen


def _belongs(name: Any, config: BertConfig) -> bool:
    """Whether a tensor would be part of what an encoder computes: an adapter, a scale, places that are relative."""
    if not isinstance(name, str):
        return False
    name = name.removeprefix("bert.")
    if name.startswith("encoder.layer."):
        number = name.split(".")[2]
        return not number.isdecimal() or int(number[:20]) < config.num_hidden_layers
    return name.startswith("embeddings.") and name not in _BUFFERS


class _Layer:
    """The packed weights of one layer."""

    def __init__(self, weights: Mapping[str, _Array], name: str, dtype: str) -> None:
        def linear(*parts: str) -> pb.Linear:
            # One matrix side by side: (out, in) as files have it, (in, out) as it is used.
            weight = np.concatenate([weights[f"{name}.{part}.weight"] for part in parts]).astype(self.wide).T
            bias = np.concatenate([weights[f"{name}.{part}.bias"] for part in parts]).astype(self.wide)
            return pb.Linear(weight, bias, dtype=dtype)

        self.wide = np.dtype(np.float64 if dtype == "float64" else np.float32)
        self.qkv = linear("attention.self.query", "attention.self.key", "attention.self.value")
        self.attended = linear("attention.output.dense")
        self.up = linear("intermediate.dense")
        self.down = linear("output.dense")
        self.middle_norm = _norm(weights, f"{name}.attention.output.LayerNorm", self.wide)
        self.norm = _norm(weights, f"{name}.output.LayerNorm", self.wide)


def _norm(weights: Mapping[str, _Array], name: str, dtype: np.dtype[Any]) -> tuple[_Array, _Array]:
    return weights[f"{name}.weight"].astype(dtype), weights[f"{name}.bias"].astype(dtype)


class BertEncoder:
    """A BERT encoder, as sentence embeddings use it: token ids in, hidden states or one embedding a row out.

    Weights are packed once, here. Padding costs nothing: its rows are left out before the first layer and put back,
    as zeros, after the last. A row gives the same bits alone and in a batch, whatever the padding.

    Parameters
    ----------
    weights : mapping of str to ndarray
        Under Hugging Face's names, with or without the prefix ``bert.``; heads, a pooler and further layers are ignored.
        Tensors of PyTorch will do as well.
    config : BertConfig
        The numbers that the weights' shapes are checked against.
    dtype : {"float32", "float16", "bfloat16", "float64"}, optional
        How the large weights are stored; float32 where left out. Those of two bytes are computed in float32.
    progress : callable, optional
        Called as ``progress(done, total)`` while weights are packed.

    Raises
    ------
    ValueError
        Weights are missing or have another shape than `config` asks for, are no floats of 16 bits or more, or would
        become infinite in `dtype`; or there are others among them that a BERT encoder has no place for, as an adapter.
        The message names them.
    TypeError
        A weight is a masked array, or a tensor that is more than its numbers.

    Examples
    --------
    >>> import numpy as np
    >>> from polyglot_bridge.models import BertConfig, BertEncoder
    >>> config = BertConfig(8, 1, 2, 16, vocab_size=10, max_position_embeddings=4)
    >>> random = np.random.default_rng(0)
    >>> weights = {name: random.standard_normal(shape) for name, shape in config.shapes().items()}
    >>> model = BertEncoder(weights, config)
    >>> model.embed([[1, 2, 3], [4, 0, 0]], [[1, 1, 1], [1, 0, 0]]).shape
    (2, 8)
    """

    def __init__(
        self,
        weights: Mapping[str, _Array],
        config: BertConfig,
        dtype: str | None = None,
        *,
        progress: Callable[[int, int], object] | None = None,
    ) -> None:
        if not isinstance(weights, Mapping):
            kind = type(weights).__name__
            raise TypeError(f"weights must be a mapping of names to arrays, not {kind}; a module's is its state_dict()")
        weights = _select(weights, config)
        dtype = "float32" if dtype is None else str(np.dtype(dtype)) if dtype != "bfloat16" else dtype
        if dtype not in FLOATS:
            raise TypeError(f"dtype must be float16, bfloat16, float32 or float64, not {dtype}")
        self.config = config
        self.dtype = dtype
        total = config.num_hidden_layers + 1
        wide = np.dtype(np.float64 if dtype == "float64" else np.float32)
        for name, array in weights.items():
            # Large weights and tables are kept in `dtype`, vectors in what is computed in.
            check_range(name, array, dtype if array.ndim == 2 else wide.name)
        names = ("word_embeddings", "position_embeddings", "token_type_embeddings")
        self._tables = tuple(_stored(weights[f"embeddings.{name}.weight"], dtype) for name in names)
        self._norm = _norm(weights, "embeddings.LayerNorm", wide)
        self._layers: list[_Layer] = []
        for number in range(config.num_hidden_layers):
            if progress:
                progress(number + 1, total)
            self._layers.append(_Layer(weights, f"encoder.layer.{number}", dtype))
        if progress:
            progress(total, total)

    @classmethod
    def from_safetensors(
        cls,
        path: _Path,
        config: _Path | BertConfig | None = None,
        dtype: str | None = None,
        *,
        progress: Callable[[int, int], object] | None = None,
    ) -> BertEncoder:
        """Read weights and configuration as Hugging Face publishes them.

        Parameters
        ----------
        path : str or os.PathLike
            The `.safetensors` file.
        config : str, os.PathLike or BertConfig, optional
            The `config.json`; the one beside the weights where left out.
        dtype, progress
            As for the class.

        Returns
        -------
        BertEncoder
        """
        if config is None:
            config = os.path.join(os.path.dirname(os.fspath(path)), "config.json")
        if not isinstance(config, BertConfig):
            config = BertConfig.from_json(config)
        weights = load(path)
        try:
            return cls(weights, config, dtype, progress=progress)
        except ValueError as error:
            raise ValueError(f"{os.fsdecode(path)}: {error}") from error

    @property
    def nbytes(self) -> int:
        """The bytes that all weights take."""
        small = [self._norm] + [norm for layer in self._layers for norm in (layer.middle_norm, layer.norm)]
        large = [one for layer in self._layers for one in (layer.qkv, layer.attended, layer.up, layer.down)]
        parts: list[Any] = [*self._tables, *large, *(array for pair in small for array in pair)]
        return sum(part.nbytes for part in parts)

    def encode(
        self, ids: npt.ArrayLike, mask: npt.ArrayLike | None = None, token_type_ids: npt.ArrayLike | None = None
    ) -> _Array:
        """Return the last layer's hidden states.

        Parameters
        ----------
        ids : array_like of int
            Token ids, of shape (batch, tokens) or (tokens,).
        mask : array_like of int or bool, optional
            Of the same shape: 1 or True for a token, 0 or False for padding. All are tokens where left out.
        token_type_ids : array_like of int, optional
            Of the same shape; zeros where left out.

        Returns
        -------
        ndarray
            Of shape (batch, tokens, hidden_size); zeros at padding.

        Raises
        ------
        ValueError
            Shapes differ, or an id of a token is out of range.
        TypeError
            Ids are no integers, the mask holds neither integers nor bools, or one of them is a masked array.
        """
        ids, mask, kinds = self._check(ids, mask, token_type_ids)
        full = bool(mask.all())
        hidden = self._forward(ids[mask], np.nonzero(mask)[-1], kinds[mask], np.atleast_2d(mask).sum(1))
        if full:
            return hidden.reshape(*ids.shape, hidden.shape[-1])
        out = np.zeros((*ids.shape, hidden.shape[-1]), hidden.dtype)
        out[mask] = hidden
        return out

    def embed(
        self, ids: npt.ArrayLike, mask: npt.ArrayLike | None = None, token_type_ids: npt.ArrayLike | None = None
    ) -> _Array:
        """Return an embedding of each row: the mean of its tokens' hidden states, scaled to length 1.

        Parameters
        ----------
        ids, mask, token_type_ids
            As for `encode`.

        Returns
        -------
        ndarray
            Of shape (batch, hidden_size), or (hidden_size,) for one row; zeros for a row of padding alone.

        Raises
        ------
        ValueError, TypeError
            As for `encode`.
        """
        ids, mask, kinds = self._check(ids, mask, token_type_ids)
        return pb.l2_normalize(pb.mean_pool(self.encode(ids, mask, kinds), mask))

    def _check(
        self, ids: npt.ArrayLike, mask: npt.ArrayLike | None, kinds: npt.ArrayLike | None
    ) -> tuple[_Array, _Array, _Array]:
        """Return ids, mask and token types as arrays of one shape."""
        for name, given in (("ids", ids), ("mask", mask), ("token_type_ids", kinds)):
            if is_masked(given):
                raise TypeError(f"{name} is a masked array, and its mask would be lost")
        ids = np.asarray(ids)
        mask = np.ones(ids.shape, bool) if mask is None else np.asarray(mask)
        kinds = np.zeros(ids.shape, np.intp) if kinds is None else np.asarray(kinds)
        if ids.ndim not in (1, 2):
            raise ValueError(f"ids has shape {ids.shape}, expected (batch, tokens) or (tokens,)")
        for name, array, allowed in (("ids", ids, "iu"), ("mask", mask, "biu"), ("token_type_ids", kinds, "iu")):
            if array.shape != ids.shape:
                raise ValueError(f"{name} has shape {array.shape}, ids has shape {ids.shape}")
            if array.dtype.kind not in allowed and array.size:
                raise TypeError(f"{name} has dtype {array.dtype}, expected integers" + " or bool" * ("b" in allowed))
        if ids.shape[-1] > self.config.max_position_embeddings:
            most = self.config.max_position_embeddings
            raise ValueError(f"ids has shape {ids.shape}, and the model takes {most} tokens a row at most")
        return ids.astype(np.intp, copy=False), mask.astype(bool, copy=False), kinds.astype(np.intp, copy=False)

    def _forward(self, ids: _Array, places: _Array, kinds: _Array, lengths: _Array) -> _Array:
        """Run all layers on the tokens of all rows, one after another; `lengths` tells how many each row has."""
        eps, heads = self.config.layer_norm_eps, self.config.num_attention_heads
        x = pb.embedding((ids, places, kinds), self._tables, dtype=self._norm[0].dtype)
        pb.layer_norm(x, *self._norm, eps=eps, out=x)
        size = x.shape[1] // heads
        activate = _ACTIVATIONS[self.config.hidden_act]
        groups = _groups(lengths)
        for layer in self._layers:
            for rows, stacks in groups:
                group = x[rows]
                qkv, context = layer.qkv(group), np.empty_like(group)
                for inside, batch in stacks:
                    # Views of shape (rows, heads, tokens, head size).
                    q, k, v = qkv[inside].reshape(batch, -1, 3, heads, size).transpose(2, 0, 3, 1, 4)
                    seen = context[inside].reshape(batch, -1, heads, size).transpose(0, 2, 1, 3)
                    pb.attention(q, k, v, out=seen)
                middle = layer.attended(context)
                pb.layer_norm(middle, *layer.middle_norm, residual=group, eps=eps, out=middle)
                below = layer.down(activate(layer.up(middle)))
                pb.layer_norm(below, *layer.norm, residual=middle, eps=eps, out=group)
        return x


def _groups(lengths: _Array) -> list[tuple[slice, list[tuple[slice, int]]]]:
    """Return the tokens of a few rows each, which go through a layer together so that what they become stays in a cache,
    and in them the tokens of neighbours of one length, with how many rows those are.
    """
    groups: list[tuple[slice, list[tuple[slice, int]]]] = []
    start = end = 0
    stacks: list[tuple[slice, int]] = []
    for length, neighbours in itertools.groupby(lengths.tolist()):
        left = len(list(neighbours)) if length else 0
        while left:
            room = (_GROUP - (end - start)) // length
            if room < 1 and stacks:
                groups.append((slice(start, end), stacks))
                start, stacks = end, []
                continue
            batch = min(left, max(room, 1))
            stacks.append((slice(end - start, end - start + batch * length), batch))
            end, left = end + batch * length, left - batch
    if stacks:
        groups.append((slice(start, end), stacks))
    return groups


def _stored(array: _Array, dtype: str) -> _Array:
    """Return a copy in a dtype, which may be one that NumPy lacks."""
    if dtype == "bfloat16":
        import ml_dtypes

        return array.astype(ml_dtypes.bfloat16)
    return array.astype(dtype)
