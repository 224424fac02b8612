"""T5 in its published layout, against torch; mistakes of any encoder."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from i2i_prior.errors import UserError  # noqa: E402
from i2i_prior.interop.files.state_dicts import StateDict  # noqa: E402
from i2i_prior.interop.layouts import conversion, mapping  # noqa: E402
from i2i_prior.interop.layouts import text as text_layouts  # noqa: E402
from i2i_prior.interop.text import (  # noqa: E402
    TextEncoder,
    detect,
    export,
    functional_of,
    load_text_encoder,
)
from i2i_prior.models.text_t5 import T5Config  # noqa: E402
from tests.interop.fixtures_text import (  # noqa: E402
    arrays_of,
    assert_same_arrays,
    close,
    masked_ids,
    t5_model,
)

LENGTH = 140  # past T5's last bucket of relative positions


@pytest.fixture(scope="module")
def t5():
    return t5_model("gated-gelu")


@pytest.fixture(scope="module")
def t5_state(t5):
    return StateDict.from_arrays(arrays_of(t5), t5.config.to_dict())


@pytest.fixture(scope="module")
def our_t5(t5_state):
    return load_text_encoder(t5_state)


@pytest.mark.parametrize("feed_forward", ["gated-gelu", "relu"])
def test_t5_against_transformers(feed_forward):
    model = t5_model(feed_forward)
    state = StateDict.from_arrays(arrays_of(model), model.config.to_dict())
    assert detect(state.shapes) == "t5"
    encoder = load_text_encoder(state)
    ids, mask = masked_ids([LENGTH, 41, 3], LENGTH, 60)
    with torch.no_grad():
        reference = model(torch.tensor(ids), torch.tensor(mask))
    features = encoder(ids, mask)
    assert features.pooled is None
    # At the padding, too.
    close(features.tokens, reference.last_hidden_state.numpy())
    assert_same_arrays(
        export(encoder.parameters, encoder.config, "t5", tied=True),
        arrays_of(model),
    )


def test_t5_shapes_alone_tell_its_configuration(t5_state, our_t5):
    bare = StateDict.from_arrays(dict(t5_state))
    assert load_text_encoder(bare).config == our_t5.config


def test_t5_with_a_decoder_or_one_embedding_is_the_same(t5_state, our_t5):
    whole = {**t5_state, "lm_head.weight": np.ones((60, 24), "f4")}
    whole["decoder.final_layer_norm.weight"] = np.ones(24, "f4")
    for left_out in text_layouts.SHARED, text_layouts.TIED:
        arrays = {k: v for k, v in whole.items() if k != left_out}
        encoder = load_text_encoder(StateDict.from_arrays(arrays))
        for name, array in our_t5.parameters.items():
            np.testing.assert_array_equal(array, encoder.parameters[name])


def test_t5_without_padding_and_in_bfloat16(t5, t5_state):
    ids, _ = masked_ids([20, 20], 20, 60)
    with torch.no_grad():
        reference = t5(torch.tensor(ids)).last_hidden_state.numpy()
    close(load_text_encoder(t5_state)(ids).tokens, reference)
    rounded = load_text_encoder(t5_state, precision="bfloat16")
    kernel = rounded.parameters["blocks/mlp/fc1/kernel"]
    assert str(kernel.dtype) == "bfloat16"  # half of the memory
    tokens = rounded(ids).tokens
    assert tokens.dtype == np.float32
    error = np.abs(tokens - reference).max() / np.abs(reference).max()
    assert 1e-4 < error < 0.1


def test_t5_xxl_has_the_published_entries_and_size():
    config = T5Config()
    structs = functional_of(config).shapes()
    assert sum(a.size for a in structs.values()) == 4_762_310_656
    rules = text_layouts.rules_of("t5", config, structs)
    rules += mapping.rules_of({"embedding": text_layouts.TIED}, structs)
    entries = conversion.expected_shapes(rules, structs)
    assert len(entries) == 220
    with torch.device("meta"):
        official = transformers.T5EncoderModel(
            transformers.T5Config(
                d_model=4096,
                d_ff=10240,
                d_kv=64,
                num_heads=64,
                num_layers=24,
                feed_forward_proj="gated-gelu",
            )
        ).state_dict()
    assert entries == {k: tuple(v.shape) for k, v in official.items()}
    read = text_layouts.config_of("t5", entries, {}, path="xxl")
    assert read == config


# -- captions ----------------------------------------------------------------

CAPTIONS = ["a dog runs", "a small dog runs on the green grass near a lake"]


def t5_tokenizer(folder):
    """A SentencePiece model with T5's special tokens, trained on a line."""
    sentencepiece = pytest.importorskip("sentencepiece")
    text = folder / "corpus.txt"
    text.write_text("\n".join(CAPTIONS * 20))
    sentencepiece.SentencePieceTrainer.train(
        input=str(text),
        model_prefix=str(folder / "spiece"),
        vocab_size=40,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    settings = {"tokenizer_class": "T5Tokenizer", "extra_ids": 0}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    pieces = sentencepiece.SentencePieceProcessor(
        model_file=str(folder / "spiece.model")
    )
    return [[*pieces.encode(caption), 1] for caption in CAPTIONS]


def test_t5_captions_become_features(tmp_path, t5_state, our_t5):
    """A folder as published: weights, config.json and tokenizer."""
    safetensors = pytest.importorskip("safetensors.numpy")
    expected = t5_tokenizer(tmp_path)
    safetensors.save_file(
        {k: v for k, v in t5_state.items() if k != text_layouts.TIED},
        tmp_path / "model.safetensors",
    )
    (tmp_path / "config.json").write_text(json.dumps(t5_state.config))
    encoder = load_text_encoder(tmp_path)
    length = len(expected[1]) + 4
    ids, mask = encoder.tokenize(CAPTIONS, length)
    assert (ids.dtype, mask.dtype) == (np.int32, bool)
    for row, row_mask, pieces in zip(ids, mask, expected, strict=True):
        np.testing.assert_array_equal(row[row_mask], pieces)
        assert not row[~row_mask].any()
    short, all_true = encoder.tokenize(CAPTIONS, 3)
    assert all_true.all()
    np.testing.assert_array_equal(short[1], [*expected[1][:2], 1])
    tokens, encoded_mask = encoder.encode(CAPTIONS)
    assert tokens.shape == (2, 120, 24)
    assert encoded_mask.sum() == mask.sum()
    np.testing.assert_allclose(
        tokens[:, :length][mask], our_t5(ids, mask).tokens[mask], atol=1e-5
    )


# -- mistakes ----------------------------------------------------------------


def test_files_without_a_text_encoder_are_refused():
    for arrays in (
        {"blocks.0.attn.qkv.weight": np.ones((6, 2), "f4")},
        {"vision_model.encoder.layers.0.self_attn.q_proj.weight": np.ones(2)},
        {"transformer.resblocks.0.attn.in_proj_weight": np.ones(2)},
    ):
        assert detect(arrays) is None
        with pytest.raises(UserError, match="no text encoder of a known"):
            load_text_encoder(StateDict.from_arrays(arrays))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (text_layouts.BIAS, None, "relative_attention_bias.weight is missing"),
        ("encoder.final_layer_norm.weight", None, "keys 1 missing"),
        ("encoder.final_layer_norm.weight", np.ones(7, "f4"), "1 misshapen"),
        ("encoder.extra.weight", np.ones(7, "f4"), "1 unexpected"),
        ("encoder.block.99999999.a", np.ones(7, "f4"), "1 unexpected"),
        ("shared.weight", np.full((60, 24), np.nan, "f4"), "NaN or infinite"),
        ("shared.weight", np.ones((60, 24), "f4"), "two different embeddings"),
    ],
)
def test_broken_t5_files_are_refused(t5_state, key, value, message):
    arrays = dict(t5_state)
    if value is None:
        del arrays[key]
    else:
        arrays[key] = value
    if "NaN" in message:
        arrays[text_layouts.TIED] = value
        del arrays[text_layouts.TIED]
    with pytest.raises(UserError, match=message):
        load_text_encoder(StateDict.from_arrays(arrays))


def test_bad_calls_are_refused(our_t5, tmp_path):
    with pytest.raises(UserError, match="not all among the 60"):
        our_t5(np.full((1, 4), 60))
    with pytest.raises(UserError, match="choose t5"):
        export(our_t5.parameters, our_t5.config, "clip_text")
    with pytest.raises(UserError, match="has no tokenizer"):
        our_t5.encode(["a dog"])
    lost = TextEncoder(our_t5.config, our_t5.parameters, tmp_path / "nowhere")
    with pytest.raises(UserError, match="holds no tokenizer"):
        lost.encode(["a dog"])


@pytest.mark.parametrize("package", ["transformers", "sentencepiece"])
def test_missing_packages_are_named(package, our_t5, tmp_path, monkeypatch):
    (tmp_path / "spiece.model").write_bytes(b"")
    encoder = TextEncoder(our_t5.config, our_t5.parameters, tmp_path)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"{package}.*i2i-prior\[text\]"):
        encoder.encode(["a dog"])
