"""T5 and CLIP text encoders in their published layouts, against torch."""

from __future__ import annotations

import json
import math
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from i2i_prior.errors import UserError  # noqa: E402
from i2i_prior.interop import mapping, text_layouts  # noqa: E402
from i2i_prior.interop.files import StateDict  # noqa: E402
from i2i_prior.interop.text import (  # noqa: E402
    TextEncoder,
    detect,
    export,
    functional_of,
    load_text_encoder,
)
from i2i_prior.models.text_clip import ClipTextConfig  # noqa: E402
from i2i_prior.models.text_t5 import T5Config  # noqa: E402

LIMIT = 1e-4  # of the largest value of the reference
LENGTH = 140  # past T5's last bucket of relative positions
END = 49

T5_SHAPE = {
    "vocab_size": 60,
    "d_model": 24,
    "d_kv": 8,  # 4 heads of 8 are not 24
    "num_heads": 4,
    "d_ff": 40,
    "num_layers": 2,
}
CLIP_SHAPE = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 16,
    "bos_token_id": 48,
    "eos_token_id": END,
    "projection_dim": 12,
}


def randomize(model):
    """Every weight random, norms too; products keep their input's scale.

    Embeddings are small, so that the first norm shows its epsilon.
    """
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "embed" in name or "shared" in name:
                noise *= 0.01
            elif parameter.ndim == 2:
                noise /= parameter.shape[1] ** 0.5
            else:
                noise = 0.3 * noise + ("bias" not in name)
            parameter.copy_(noise)
    return model.eval()


def arrays_of(model):
    return {k: v.detach().numpy() for k, v in model.state_dict().items()}


def close(ours, theirs):
    error = np.abs(ours - theirs).max() / np.abs(theirs).max()
    assert error <= LIMIT, error


def masked_ids(lengths, length, vocabulary):
    """Random ids of these lengths, padded with 0; and their mask."""
    rng = np.random.default_rng(0)
    mask = np.arange(length) < np.asarray(lengths)[:, None]
    ids = rng.integers(1, vocabulary, mask.shape)
    return np.where(mask, ids, 0), mask


def assert_same_arrays(written, expected):
    """Bit for bit, and the promised shapes are kept."""
    tensors = dict(written)
    assert tensors.keys() == expected.keys()
    for key, tensor in tensors.items():
        assert tensor.shape == expected[key].shape, key
        array = tensor.read()
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, expected[key], err_msg=key)


def t5_model(feed_forward):
    config = transformers.T5Config(**T5_SHAPE, feed_forward_proj=feed_forward)
    return randomize(transformers.T5EncoderModel(config))


@pytest.fixture(scope="module")
def t5():
    return t5_model("gated-gelu")


@pytest.fixture(scope="module")
def t5_state(t5):
    return StateDict.from_arrays(arrays_of(t5), t5.config.to_dict())


@pytest.fixture(scope="module")
def our_t5(t5_state):
    return load_text_encoder(t5_state)


# -- T5 ----------------------------------------------------------------------


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
    shapes = {n: a.shape for n, a in functional_of(config).shapes().items()}
    assert sum(map(math.prod, shapes.values())) == 4_762_310_656
    rules = text_layouts.rules_of("t5", config)
    rules.append(mapping.same("embedding", text_layouts.TIED))
    entries = mapping.expected_shapes(rules, shapes)
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


# -- CLIP --------------------------------------------------------------------


def clip_text(projection=True, **changes):
    kind = "CLIPTextModelWithProjection" if projection else "CLIPTextModel"
    config = transformers.CLIPTextConfig(**{**CLIP_SHAPE, **changes})
    return randomize(getattr(transformers, kind)(config))


def clip_ids(end=END):
    """Texts that end at 16, 9 and 4 tokens; an id above the end token's."""
    ids, mask = masked_ids([16, 9, 4], 16, 40)
    ids[[0, 1, 2], [15, 8, 3]] = end
    return ids, mask


def published(arrays):
    """With the prefix that files have and newer transformers leave out."""
    return {
        k if k.startswith(("text_", "vis", "logit")) else f"text_model.{k}": v
        for k, v in arrays.items()
    }


def test_clip_text_against_transformers():
    """OpenAI's: QuickGELU, the legacy end token 2, nothing projected."""
    model = clip_text(projection=False, eos_token_id=2)
    arrays = arrays_of(model)
    for named in (arrays, published(arrays)):
        state = StateDict.from_arrays(named, model.config.to_dict())
        assert detect(state.shapes) == "clip_text"
        encoder = load_text_encoder(state)
    ids, _ = clip_ids()
    with torch.no_grad():
        reference = model(torch.tensor(ids))
    features = encoder(ids)
    close(features.tokens, reference.last_hidden_state.numpy())
    close(features.pooled, reference.pooler_output.numpy())
    assert_same_arrays(
        export(encoder.parameters, encoder.config, "clip_text"),
        published(arrays),
    )


def test_clip_text_with_projection_gelu_and_mask():
    """OpenCLIP's: exact GELU, the first end token pools, heads given."""
    model = clip_text(hidden_act="gelu", eos_token_id=30)
    state = StateDict.from_arrays(arrays_of(model), model.config.to_dict())
    encoder = load_text_encoder(state)
    ids, mask = clip_ids(end=30)
    ids[0, :14] = np.where(ids[0, :14] == 30, 29, ids[0, :14])
    ids[1, 2] = 45  # larger than the end token: not where the text ends
    with torch.no_grad():
        reference = model(torch.tensor(ids), torch.tensor(mask))
    features = encoder(ids, mask)
    close(features.tokens, reference.last_hidden_state.numpy())
    close(features.pooled, reference.text_embeds.numpy())
    assert_same_arrays(
        export(encoder.parameters, encoder.config, "clip_text"),
        published(arrays_of(model)),
    )
    bare = StateDict.from_arrays(dict(state))
    given = load_text_encoder(bare, heads=4, activation="gelu").config
    assert (given.heads, given.activation) == (4, "gelu")
    assert load_text_encoder(bare).config.heads == 1  # 64 channels a head


def test_clip_text_inside_a_whole_clip():
    vision = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 8,
        "patch_size": 4,
    }
    config = transformers.CLIPConfig(
        text_config=CLIP_SHAPE, vision_config=vision, projection_dim=20
    )
    model = randomize(transformers.CLIPModel(config))
    state = StateDict.from_arrays(arrays_of(model), config.to_dict())
    encoder = load_text_encoder(state)
    assert (encoder.config.heads, encoder.config.projection) == (4, 20)
    ids, mask = clip_ids()
    with torch.no_grad():
        hidden = model.text_model(torch.tensor(ids), torch.tensor(mask))
        pooled = model.text_projection(hidden.pooler_output)
    close(encoder(ids, mask).pooled, pooled.numpy())


class OpenAiText(torch.nn.Module):
    """CLIP's text tower out of PyTorch's own parts, OpenAI's names."""

    def __init__(self):
        super().__init__()
        nn = torch.nn
        self.token_embedding = nn.Embedding(50, 32)
        self.positional_embedding = nn.Parameter(torch.zeros(16, 32))
        self.transformer = nn.Module()
        self.transformer.resblocks = nn.ModuleList(
            nn.ModuleDict(
                {
                    "attn": nn.MultiheadAttention(32, 4, batch_first=True),
                    "ln_1": nn.LayerNorm(32),
                    "mlp": nn.ModuleDict(
                        {"c_fc": nn.Linear(32, 48), "c_proj": nn.Linear(48, 32)}
                    ),
                    "ln_2": nn.LayerNorm(32),
                }
            )
            for _ in range(2)
        )
        self.ln_final = nn.LayerNorm(32)
        self.text_projection = nn.Parameter(torch.zeros(32, 12))

    def forward(self, ids):
        x = self.token_embedding(ids) + self.positional_embedding
        hidden = torch.ones(16, 16).triu(1).bool()
        for block in self.transformer.resblocks:
            y = block["ln_1"](x)
            x = x + block["attn"](y, y, y, attn_mask=hidden)[0]
            y = block["mlp"]["c_fc"](block["ln_2"](x))
            x = x + block["mlp"]["c_proj"](y * torch.sigmoid(1.702 * y))
        x = self.ln_final(x)
        ends = x[torch.arange(len(ids)), ids.argmax(-1)]
        return x, ends @ self.text_projection


def test_clip_text_in_openai_names():
    model = randomize(OpenAiText())
    arrays = arrays_of(model)
    beside = {
        "visual.proj": np.ones((4, 4), "f4"),
        "logit_scale": np.ones((), "f4"),
        "context_length": np.array(16),
    }
    state = StateDict.from_arrays({**arrays, **beside})
    assert detect(state.shapes) == "clip_text_openai"
    encoder = load_text_encoder(state, heads=4)
    ids, _ = clip_ids()
    with torch.no_grad():
        tokens, pooled = model(torch.tensor(ids))
    features = encoder(ids)
    close(features.tokens, tokens.numpy())
    close(features.pooled, pooled.numpy())
    written = export(encoder.parameters, encoder.config, "clip_text_openai")
    assert_same_arrays(written, arrays)
    # The same weights under Hugging Face's names are the same encoder.
    moved = {
        key: tensor.read()
        for key, tensor in export(
            encoder.parameters, encoder.config, "clip_text"
        )
    }
    again = load_text_encoder(StateDict.from_arrays(moved), heads=4)
    assert again.config == encoder.config
    for name, array in encoder.parameters.items():
        np.testing.assert_array_equal(array, again.parameters[name])


def test_clip_l14_has_the_published_entries():
    config = ClipTextConfig()
    shapes = {n: a.shape for n, a in functional_of(config).shapes().items()}
    entries = mapping.expected_shapes(
        text_layouts.rules_of("clip_text", config), shapes
    )
    assert len(entries) == 197
    with torch.device("meta"):
        official = transformers.CLIPTextModelWithProjection(
            transformers.CLIPTextConfig(
                hidden_size=768,
                intermediate_size=3072,
                num_attention_heads=12,
                projection_dim=768,
            )
        ).state_dict()
    assert entries == {k: tuple(v.shape) for k, v in official.items()}
    assert text_layouts.config_of("clip_text", entries, {}, path="") == config


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


def clip_tokenizer(folder):
    """CLIP's tokenizer without merges: every letter is a token."""
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    tokens = [*letters, *(f"{c}</w>" for c in letters)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    settings = {
        "tokenizer_class": "CLIPTokenizer",
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def test_clip_captions_become_features(tmp_path):
    """A diffusers pipeline: tokenizer/ lies beside text_encoder/."""
    safetensors = pytest.importorskip("safetensors.numpy")
    clip_tokenizer(tmp_path / "tokenizer")
    (tmp_path / "text_encoder").mkdir()
    model = clip_text(projection=False, vocab_size=54, eos_token_id=53)
    safetensors.save_file(
        arrays_of(model), tmp_path / "text_encoder" / "model.safetensors"
    )
    (tmp_path / "text_encoder" / "config.json").write_text(
        json.dumps(model.config.to_dict())
    )
    encoder = load_text_encoder(tmp_path / "text_encoder")
    ids, mask = encoder.tokenize(["a dog"], 8)
    np.testing.assert_array_equal(ids, [[52, 26, 3, 14, 32, 53, 53, 53]])
    np.testing.assert_array_equal(mask, [[True] * 6 + [False] * 2])
    tokens, mask = encoder.encode(["a dog", "a cat sits"])
    assert tokens.shape == (2, 16, 32)
    with torch.no_grad():
        ids = torch.tensor(encoder.tokenize(["a dog", "a cat sits"], 16)[0])
        reference = model(ids.long()).last_hidden_state
    close(tokens, reference.numpy())


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
