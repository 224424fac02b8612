"""Small transformers models with random weights, and their other names."""

from __future__ import annotations

import re

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

DEPTH, WIDTH, HEADS, PATCH = 2, 32, 4, 4
LIMIT = 1e-5  # of the largest value; both GELUs differ by more
SIZE, OTHER = (16, 16), (12, 28)  # 4 x 4 patches; 3 x 7: fewer and more

SHAPE = {
    "hidden_size": WIDTH,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": HEADS,
    "image_size": 16,
    "patch_size": PATCH,
}
MLP = {**SHAPE, "intermediate_size": 48}
TEXT = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "vocab_size": 100,
    "max_position_embeddings": 8,
}
INTERPOLATE = {"interpolate_pos_encoding": True}
DINOV2 = {**SHAPE, "mlp_ratio": 4}
DECODER = {
    "decoder_hidden_size": 16,
    "decoder_num_hidden_layers": 1,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 16,
}


def _clip():
    config = transformers.CLIPConfig(
        text_config=TEXT, vision_config=MLP, projection_dim=24
    )
    return transformers.CLIPModel(config)


def _siglip():
    config = transformers.SiglipConfig(text_config=TEXT, vision_config=MLP)
    return transformers.SiglipModel(config)


# name -> (how it is made, (what its forward pass is called with, the attribute
# that is its image encoder or "", our layout, our family))
MODELS = {
    "vit": (
        lambda: transformers.ViTModel(transformers.ViTConfig(**MLP)),
        (INTERPOLATE, "", "vit_hf", "dino_hf"),
    ),
    "dinov2": (
        lambda: transformers.Dinov2Model(transformers.Dinov2Config(**DINOV2)),
        ({}, "", "dinov2", "dinov2"),
    ),
    "registers": (
        lambda: transformers.Dinov2WithRegistersModel(
            transformers.Dinov2WithRegistersConfig(
                **DINOV2, num_register_tokens=3, use_swiglu_ffn=True
            )
        ),
        ({}, "", "dinov2", "dinov2"),
    ),
    "clip": (_clip, (INTERPOLATE, "vision_model", "clip", "clip")),
    "openclip": (
        lambda: transformers.CLIPVisionModel(
            transformers.CLIPVisionConfig(**MLP, hidden_act="gelu")
        ),
        (INTERPOLATE, "", "clip", "openclip"),
    ),
    "siglip": (_siglip, (INTERPOLATE, "vision_model", "siglip", "siglip")),
    "mae": (
        lambda: transformers.ViTMAEForPreTraining(
            transformers.ViTMAEConfig(**MLP, **DECODER, mask_ratio=0.0)
        ),
        (INTERPOLATE, "vit", "mae_hf", "mae"),
    ),
    "ijepa": (
        lambda: transformers.IJepaModel(transformers.IJepaConfig(**MLP)),
        (INTERPOLATE, "", "ijepa_hf", "ijepa"),
    ),
}
# Names in memory, where they are not what `save_pretrained` writes. name ->
# (a model of `MODELS`, what is built around its network, our layout)
MEMORY = {
    "vit": ("vit", None, "vit_memory"),
    "vit_head": ("vit", "ViTForImageClassification", "vit_memory"),
    "mae": ("mae", None, "mae_memory"),
    "ijepa": ("ijepa", None, "ijepa_memory"),
    "ijepa_head": ("ijepa", "IJepaForImageClassification", "ijepa_memory"),
    "dinov2": ("dinov2", None, "dinov2_memory"),
    "dinov2_head": ("dinov2", "Dinov2ForImageClassification", "dinov2_memory"),
    "registers": ("registers", None, "dinov2_memory"),
    "registers_head": (
        "registers",
        "Dinov2WithRegistersForImageClassification",
        "dinov2_memory",
    ),
}


def with_head(model, name: str):
    """The same network inside a transformers class that adds a head."""
    whole = getattr(transformers, name)(model.config)
    setattr(whole, whole.base_model_prefix, model)
    return whole


def randomised(model):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 4
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(noise / fan_in**0.5)
    return model.eval()


def reference(model, options, pixels) -> dict:
    """Last tokens and pooled output of a transformers model, by name."""
    call, place = options[:2]
    tensor = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    if place == "vit":  # MAE shuffles patches by this noise, masked or not
        count = pixels.shape[1] * pixels.shape[2] // PATCH**2
        call = {**call, "noise": torch.arange(count).expand(2, -1) / count}
    network = getattr(model, place) if place else model
    with torch.no_grad():
        out = network(tensor, **call)
        pooled = getattr(out, "pooler_output", None)
        if hasattr(model, "visual_projection"):
            pooled = model.visual_projection(pooled)
    return {
        "tokens": out.last_hidden_state.numpy(),
        "pooled": None if pooled is None else pooled.numpy(),
        "unprojected": getattr(out, "pooler_output", None),
    }


def error(ours, theirs) -> float:
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape
    assert ours.dtype == np.float32
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def compare(config, features, expected, limit=LIMIT):
    tokens, pooled = expected["tokens"], expected["pooled"]
    family = config.family
    if family in ("siglip", "ijepa"):
        assert error(features.patches, tokens) <= limit
        cls = tokens.mean(1) if family == "ijepa" else pooled
        assert error(features.cls, cls) <= limit
    else:
        first = 1 + config.registers
        assert error(features.patches, tokens[:, first:]) <= limit
        cls = expected["unprojected"] if "clip" in family else tokens[:, 0]
        assert error(features.cls, cls) <= limit
    if family in ("clip", "openclip", "siglip"):
        assert error(features.pooled, pooled) <= limit
    else:
        assert features.pooled is None


OFFICIAL = (  # transformers' names -> those of the authors' code
    (r"patch_embeddings\.projection", "patch_embed.proj"),
    (r"position_embeddings", "pos_embed"),
    (r"^embeddings\.", ""),
    (r"encoder\.layer\.", "blocks."),
    (r"layernorm_before", "norm1"),
    (r"layernorm_after", "norm2"),
    (r"attention\.output\.dense", "attn.proj"),
    (r"intermediate\.dense", "mlp.fc1"),
    (r"output\.dense", "mlp.fc2"),
    (r"layer_scale(\d)\.lambda1", r"ls\1.gamma"),
    (r"mlp\.weights_in", "mlp.w12"),
    (r"mlp\.weights_out", "mlp.w3"),
    (r"^layernorm", "norm"),
    (r"^decoder\.decoder_encoder\.layer\.", "decoder_blocks."),
    (r"^decoder\.(mask_token|decoder)", r"\1"),
)
OPENAI = (
    (r"^vision_model\.embeddings\.patch_embedding", "visual.conv1"),
    (r"^vision_model\.embeddings\.class_", "visual.class_"),
    (
        r"^vision_model\.embeddings\.position_embedding\.weight",
        "visual.positional_embedding",
    ),
    (r"^vision_model\.pre_layrnorm", "visual.ln_pre"),
    (r"^vision_model\.post_layernorm", "visual.ln_post"),
    (r"^vision_model\.encoder\.layers\.", "visual.transformer.resblocks."),
    (r"layer_norm(\d)", r"ln_\1"),
    (r"self_attn\.", "attn."),
    (r"mlp\.fc1", "mlp.c_fc"),
    (r"mlp\.fc2", "mlp.c_proj"),
    (r"^text_model\.encoder\.layers\.", "transformer.resblocks."),
    (r"^text_model\.embeddings\.token_", "token_"),
    (r"^text_model\.final_layer_norm", "ln_final"),
    (r"^text_model\..*position_embedding\.weight", "positional_embedding"),
    (r"^text_projection\.weight", "text_projection"),
)


def renamed(arrays, table) -> dict[str, np.ndarray]:
    new = {}
    for key, array in arrays.items():
        for pattern, replacement in table:
            key = re.sub(pattern, replacement, key)
        new[key] = array
    return new


def fused(arrays, parts, whole, dot=".") -> dict[str, np.ndarray]:
    """Query, key and value of every attention as one array."""
    arrays = dict(arrays)
    mark = f"{parts[0]}.weight"
    for first in [key for key in arrays if key.endswith(mark)]:
        stem = first.removesuffix(mark)
        for kind in ("weight", "bias"):
            three = [arrays.pop(f"{stem}{part}.{kind}") for part in parts]
            arrays[f"{stem}{whole}{dot}{kind}"] = np.concatenate(three)
    return arrays


def authors(state, prefix: str = "") -> dict[str, np.ndarray]:
    """A transformers ViT under the names of DINO, MAE, I-JEPA, DINOv2."""
    arrays = {key.removeprefix(prefix): state[key] for key in state}
    parts = [f"attention.attention.{n}" for n in ("query", "key", "value")]
    arrays = fused(arrays, parts, "attn.qkv")
    return {
        key: array
        for key, array in renamed(arrays, OFFICIAL).items()
        if not key.startswith("pooler.")
    }


def openai(state) -> dict[str, np.ndarray]:
    """A transformers CLIP under OpenAI's names."""
    parts = [f"self_attn.{name}_proj" for name in "qkv"]
    arrays = fused(state, parts, "attn.in_proj", dot="_")
    arrays = renamed(arrays, OPENAI)
    arrays["visual.proj"] = arrays.pop("visual_projection.weight").T
    return arrays


def with_official_positions(model):
    """The official interpolation in the place of transformers'.

    DINO and DINOv2 give torch.nn.functional.interpolate a scale factor of
    (n + 0.1) / cells along each axis, instead of a size.
    """
    embeddings = model.embeddings

    def interpolate(_, height, width):
        table = embeddings.position_embeddings
        cells = round((table.shape[1] - 1) ** 0.5)
        square = table[:, 1:].reshape(1, cells, cells, -1).permute(0, 3, 1, 2)
        grid = (height // PATCH, width // PATCH)
        if grid == (cells, cells):
            return table
        resized = torch.nn.functional.interpolate(
            square,
            scale_factor=tuple((n + 0.1) / cells for n in grid),
            mode="bicubic",
        )
        assert resized.shape[2:] == grid
        resized = resized.permute(0, 2, 3, 1).flatten(1, 2)
        return torch.cat([table[:, :1], resized], dim=1)

    embeddings.interpolate_pos_encoding = interpolate
    for module in model.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = 1e-6  # as the authors have it
    return model
