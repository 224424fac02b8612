"""CLIP's text encoder in its published layouts, against torch."""

from __future__ import annotations

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from i2i_prior.interop.files.state_dicts import StateDict  # noqa: E402
from i2i_prior.interop.layouts import conversion, text  # noqa: E402
from i2i_prior.interop.text import (  # noqa: E402
    detect,
    export,
    functional_of,
    load_text_encoder,
)
from i2i_prior.models.text_clip import ClipTextConfig  # noqa: E402
from tests.interop.fixtures_text import (  # noqa: E402
    CLIP_SHAPE,
    END,
    arrays_of,
    assert_same_arrays,
    clip_text,
    close,
    masked_ids,
    randomize,
)


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
    structs = functional_of(config).shapes()
    rules = text.rules_of("clip_text", config, structs)
    entries = conversion.expected_shapes(rules, structs)
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
    assert text.config_of("clip_text", entries, {}, path="") == config


def clip_tokenizer(folder):
    """CLIP's tokenizer without merges: every letter is a token."""
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    tokens = [*letters, *(f"{c}</w>" for c in letters)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    folder.mkdir(exist_ok=True)
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
