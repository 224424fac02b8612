"""Detection of encoders by their keys and shapes, and what is refused."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from i2i_prior.errors import UserError
from i2i_prior.interop import encoders
from i2i_prior.interop.files.state_dicts import StateDict
from i2i_prior.interop.layouts import conversion
from i2i_prior.interop.layouts.vit import LAYOUTS, vit_rules
from i2i_prior.models.functional import make_functional
from i2i_prior.models.vit import ViT, ViTConfig
from i2i_prior.parallel.sharding import ALL, partition_spec

TINY = ViTConfig(
    depth=2, width=32, heads=4, patch=4, image_size=16, mlp_width=48
)
VIT = dataclasses.replace(TINY, family="dino_hf")
WORDS = "text_model.embeddings.token_embedding.weight"


def parameter_structs(config: ViTConfig) -> dict[str, jax.ShapeDtypeStruct]:
    return make_functional(lambda rngs: ViT(config, rngs=rngs))[0].shapes()


def stand_in(
    config: ViTConfig, layout: str, settings=None, **extra
) -> StateDict:
    """A file of these shapes, all zero, that takes no memory."""
    spec = LAYOUTS[layout]
    structs = parameter_structs(config)
    rules = vit_rules(spec, config, spec.prefixes[0], structs)
    keys = conversion.expected_shapes(rules, structs)
    zero = np.float32(0)
    return StateDict.from_arrays(
        {
            key: np.broadcast_to(zero, shape)
            for key, shape in {**keys, **extra}.items()
        },
        config=settings,
    )


# Shapes of the published checkpoints; keys and parameters as their authors
# or the model cards count them, without the mask token (768 or 1536).
PUBLISHED = {
    "dino": (ViTConfig(), "dino", 150, 85_798_656),
    "dinov2": (
        ViTConfig(family="dinov2", patch=14, image_size=518),
        "dinov2",
        222,
        86_580_480 - 768,
    ),
    "dinov2_giant": (
        ViTConfig(
            depth=40,
            width=1536,
            heads=24,
            patch=14,
            image_size=518,
            family="dinov2_hub",
            mlp_width=4096,
            swiglu=True,
        ),
        "dinov2_hub",
        566,
        1_136_480_768 - 1536,
    ),
    "so400m_384": (
        ViTConfig(
            depth=27,
            width=1152,
            heads=16,
            patch=14,
            image_size=384,
            family="siglip",
            mlp_width=4304,
        ),
        "siglip",
        448,
        428_225_600,
    ),
    "ijepa_huge": (
        ViTConfig(depth=32, width=1280, heads=16, patch=14, family="ijepa"),
        "ijepa",
        389,
        630_764_800 - 2 * 1280,  # of a ViT-H/14 with a CLS token
    ),
    "clip_large": (
        ViTConfig(
            depth=24,
            width=1024,
            heads=16,
            patch=14,
            family="clip",
            projection=768,
        ),
        "clip",
        392,
        303_966_208,
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_shapes_are_recognised(name):
    config, layout, keys, parameters = PUBLISHED[name]
    state = stand_in(config, layout)
    assert len(state) == keys
    assert sum(np.prod(s) for s in state.shapes.values()) == parameters
    found = encoders.describe(state)
    assert (found.layout, found.config) == (layout, config)


def said(function, *args, **options) -> str:
    with pytest.raises(UserError) as caught:
        function(*args, **options)
    return str(caught.value)


def changed(state: StateDict, **arrays) -> StateDict:
    """A file with some arrays changed, taken out (None) or added."""
    new = {**state, **arrays}
    kept = {key: array for key, array in new.items() if array is not None}
    return StateDict.from_arrays(kept, config=state.config)


def test_files_that_are_not_what_they_seem():
    state = stand_in(VIT, "vit_hf")
    norm = "encoder.layer.1.layernorm_after.weight"
    table = "embeddings.position_embeddings"
    patches = "embeddings.patch_embeddings.projection.weight"
    first = "encoder.layer.0.output.dense.weight"
    for wrong, expected in (
        ({"layernorm.bias": None}, "1 missing (layernorm.bias)"),
        ({first: None}, f"its key {first} is missing"),
        ({"extra.weight": state[norm]}, "1 unexpected (extra.weight)"),
        # No 99,999,999 layers are looked for.
        ({norm.replace("1", "99999999"): state[norm]}, "missing ("),
        ({norm: state[norm][1:]}, f"1 misshapen ({norm} (31,), not (32,))"),
        ({norm: state[norm] + np.nan}, "holds NaN or infinite"),
        (
            {"embeddings.cls_token": np.float32(0)},
            "1 misshapen (embeddings.cls_",
        ),
        ({table: np.zeros(17, "f4")}, "(a tensor has too few axes)"),
        ({first: np.float32(0)}, "(a tensor has too few axes)"),
        ({table: state[table][:, 1:]}, "15 positions are not a square"),
        ({patches: state[patches][:, :1]}, "patches of RGB pixels"),
    ):
        assert expected in said(encoders.load, changed(state, **wrong))
    other = StateDict.from_arrays({"a": np.zeros(3)})
    assert encoders.detect(other) is None
    assert "of any family known here; known are dino" in said(
        encoders.load, other
    )
    siglip = dataclasses.replace(TINY, family="siglip")
    state = stand_in(siglip, "siglip")
    patches = "vision_model.embeddings.patch_embedding.weight"
    naflex = {patches: np.zeros((32, 48), "f4")}
    assert "NaFlex" in said(encoders.load, changed(state, **naflex))


def test_arguments_that_do_not_fit():
    state = stand_in(VIT, "vit_hf", {"hidden_act": "relu"})
    assert "'resnet' is unknown" in said(encoders.load, state, family="resnet")
    assert "of the layout resnet; known are" in said(
        encoders.load, state, layout="resnet"
    )
    assert "no encoder of the family clip fits" in said(
        encoders.load, state, family="clip"
    )
    assert "states the activation relu" in said(encoders.load, state)
    registers = dataclasses.replace(TINY, registers=4)
    for layout in ("resnet", "vit_hf", "siglip"):
        assert "choose " in said(encoders.export, {}, registers, layout)


def notes(state: StateDict, **options) -> str:
    return " ".join(encoders.describe(state, **options).notes)


def test_what_files_do_not_tell_is_said():
    bare = stand_in(VIT, "vit_hf")
    config = encoders.describe(bare).config
    assert config.heads == 1  # published: 64 channels
    assert "1 attention heads are assumed" in notes(bare)
    assert "needs the family mae" in notes(bare)
    stated = stand_in(
        VIT,
        "vit_hf",
        {"num_attention_heads": 4, "model_type": "vit"},  # the rest default
    )
    expected = dataclasses.replace(VIT, epsilon=1e-12)
    assert encoders.describe(stated).config == expected
    assert "are assumed" not in notes(stated)
    clip = dataclasses.replace(TINY, family="clip")
    assert "OpenAI's QuickGELU" in notes(stand_in(clip, "clip"))
    mae = dataclasses.replace(TINY, family="mae")
    decoder = {"decoder.decoder_embed.bias": (8,)}
    assert "decoder.decoder_embed.bias" in notes(
        stand_in(mae, "mae_hf", **decoder)
    )


@pytest.mark.parametrize("kind", ["hf", "memory"])
@pytest.mark.parametrize(
    ("name", "family", "model_type"),
    [
        ("vit", "dino_hf", "vit"),
        ("mae", "mae", "vit_mae"),
        ("ijepa", "ijepa", "ijepa"),
    ],
)
def test_transformers_own_names(kind, name, family, model_type):
    """The epsilon is transformers' default where none is stated."""
    config = dataclasses.replace(TINY, family=family)
    taken = dataclasses.replace(config, epsilon=1e-12)
    layout = f"{name}_{kind}"
    bare = stand_in(config, layout)
    found = encoders.describe(bare, heads=4, family=family)
    assert found.config == taken
    assert "LayerNorm epsilon of 1e-12 is assumed" in notes(bare)
    for stated, expected in (({}, taken), ({"layer_norm_eps": 1e-6}, config)):
        state = stand_in(config, layout, {"model_type": model_type, **stated})
        # A bare ViTMAEModel is told by its config.json.
        found = encoders.describe(state, heads=4)
        assert (found.layout, found.config) == (layout, expected)
        assert "epsilon" not in notes(state)


def test_the_authors_names_keep_the_authors_epsilon():
    for layout, family in (("dino", "dino"), ("mae", "mae")):
        config = dataclasses.replace(TINY, family=family)
        state = stand_in(config, layout)
        found = encoders.describe(state, heads=4, family=family)
        assert found.config == config
        assert "epsilon" not in notes(state)


def test_names_that_families_share():
    """DINO and MAE without its decoder; SigLIP and SigLIP 2."""
    dino = stand_in(TINY, "dino")
    assert "needs the family mae" in notes(dino)
    mae = encoders.describe(dino, family="mae", heads=4)
    assert mae.config == dataclasses.replace(TINY, family="mae")
    siglip = dataclasses.replace(TINY, family="siglip")
    for rows, family, said_so in (
        (32_000, "siglip", False),
        (256_000, "siglip2", False),  # Gemma's vocabulary
        (0, "siglip", True),
    ):
        text = {WORDS: (rows, 8)} if rows else {}
        state = stand_in(siglip, "siglip", **text)
        assert encoders.describe(state).config.family == family
        assert ("SigLIP is assumed" in notes(state)) == said_so


@pytest.mark.parametrize(
    "config",
    [
        dataclasses.replace(TINY, family="dinov2", swiglu=True),
        dataclasses.replace(TINY, family="siglip"),
        dataclasses.replace(TINY, family="clip", projection=24),
    ],
    ids=lambda config: config.family,
)
def test_the_sharding_table_knows_every_kernel(config, meshes):
    mesh, seen = meshes["tensor"], set()
    for name, struct in parameter_structs(config).items():
        if name.endswith("/kernel"):
            spec = partition_spec(f"encoder/{name}", struct.shape, mesh)
            # Each device works on images of its own: ZeRO over all axes.
            assert [axes for axes in spec if axes] == [ALL], name
            seen.add(name.split("/")[-2])
    assert {"qkv", "out", "patch_embed"} < seen
