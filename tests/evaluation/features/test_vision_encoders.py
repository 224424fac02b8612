"""Vision transformers as feature networks: protocol, label, CLIP-score."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest
from PIL import Image

from i2i_prior.errors import UserError
from i2i_prior.evaluation.features.vision_encoders import (
    clip_score,
    embed_captions,
    load_clip,
    load_dinov2,
    model_name,
)
from i2i_prior.models.vit import ViTConfig
from tests.interop.test_text_clip import clip_tokenizer

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SHAPE = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "patch_size": 14,
    "image_size": 28,
}
TEXT = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "vocab_size": 54,  # of `clip_tokenizer`
    "eos_token_id": 53,
    "max_position_embeddings": 8,
}
IMAGENET = np.array([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])
CLIP = np.array(
    [[0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]]
)


@pytest.fixture(scope="module")
def dinov2(tmp_path_factory):
    torch.manual_seed(0)
    # as many positions as 224 pixels have patches
    shape = {**SHAPE, "image_size": 224}
    config = transformers.Dinov2Config(**shape, mlp_ratio=2)
    model = transformers.Dinov2Model(config).eval()
    folder = tmp_path_factory.mktemp("dinov2")
    model.save_pretrained(folder)
    return model, folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    torch.manual_seed(0)
    config = transformers.CLIPConfig(
        text_config=TEXT,
        vision_config={**SHAPE, "intermediate_size": 48},
        projection_dim=24,
    )
    model = transformers.CLIPModel(config).eval()
    folder = tmp_path_factory.mktemp("clip")
    model.save_pretrained(folder)
    clip_tokenizer(folder)
    return model, folder


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (2, 60, 41, 3)).astype(np.uint8)


def _features(extractor, images):
    prepared = extractor.prepare(images)
    assert prepared.dtype == np.uint8
    found = jax.jit(extractor.apply)(extractor.parameters, prepared)
    assert {k: v.shape[1] for k, v in found.items()} == dict(extractor.taps)
    return np.asarray(found[extractor.first])


def _pixels(squares, statistics):
    pixels = (np.stack(squares) / 255 - statistics[0]) / statistics[1]
    return torch.from_numpy(pixels).float().permute(0, 3, 1, 2)


def _close(found, wanted):
    np.testing.assert_allclose(
        found, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max()
    )


def test_fd_dinov2s_protocol(dinov2, images):
    """Checks Pillow's resizing to 224 and the CLS token after the norm."""
    model, folder = dinov2
    extractor = load_dinov2(folder)
    size, bicubic = (224, 224), Image.Resampling.BICUBIC
    squares = [
        np.asarray(Image.fromarray(i).resize(size, bicubic)) for i in images
    ]
    np.testing.assert_array_equal(extractor.prepare(images), squares)
    with torch.inference_mode():
        wanted = model(_pixels(squares, IMAGENET)).pooler_output.numpy()
    _close(_features(extractor, images), wanted)
    assert extractor.label == "FD-DINOv2-ViT-32x2/14"
    assert len(extractor.identity["weights_sha256"]) == 64


def test_cmmds_protocol(clip, images):
    """Checks the central square, Pillow's resizing and the projection."""
    model, folder = clip
    extractor = load_clip(folder)
    squares = [
        np.asarray(
            Image.fromarray(image[9:50]).resize(
                (28, 28), Image.Resampling.BICUBIC
            )
        )
        for image in images
    ]
    np.testing.assert_array_equal(extractor.prepare(images), squares)
    with torch.inference_mode():
        vision = model.vision_model(_pixels(squares, CLIP)).pooler_output
        wanted = model.visual_projection(vision).numpy()
    _close(_features(extractor, images), wanted)
    assert extractor.label == "FD-CLIP-ViT-32x2/14@28"


def test_a_name_is_its_shapes():
    large = ViTConfig(24, 1024, 16, 14, 518, family="dinov2")
    assert model_name(large) == "ViT-L/14"
    small = ViTConfig(12, 384, 6, 14, 518, family="dinov2", registers=4)
    assert model_name(small) == "ViT-S/14+4registers"
    clip = ViTConfig(24, 1024, 16, 14, 336, family="clip", projection=768)
    assert model_name(clip) == "ViT-L/14@336"
    base = ViTConfig(12, 768, 12, 32, 224, family="clip", projection=512)
    assert model_name(base) == "ViT-B/32"


def test_another_networks_weights(clip, dinov2):
    with pytest.raises(UserError, match="no image encoder of DINOv2 but of"):
        load_dinov2(clip[1])
    with pytest.raises(UserError, match="no image encoder of CLIP but of"):
        load_clip(dinov2[1])


def test_captions_are_embedded_as_transformers_does(clip):
    model, folder = clip
    found = embed_captions(folder, ["a dog", "cats", "a"], batch_size=2)
    ids = [
        [52, 26, 3, 14, 32, 53, 53, 53],
        [52, 2, 0, 19, 44, 53, 53, 53],
        [52, 26, 53, 53, 53, 53, 53, 53],
    ]
    with torch.inference_mode():
        text = model.text_model(torch.tensor(ids)).pooler_output
        wanted = model.text_projection(text).numpy()
    _close(found, wanted)


def test_clip_score_of_a_folder_with_captions(clip, command, tmp_path, images):
    """By the command; an image without a caption is refused before work."""
    folder, texts = tmp_path / "drawn", ["a dog", "cats"]
    folder.mkdir()
    for number, (pixels, text) in enumerate(zip(images, texts, strict=True)):
        Image.fromarray(pixels).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"{text}\nanother one\n")
    arguments = (
        *("fid", folder, folder, "--features", "clip", "--weights", clip[1]),
        *("--metrics", "clip_score", "--json", tmp_path / "result.json"),
    )
    ended = command(*arguments)
    assert ended.code == 0, ended.err
    result = json.loads((tmp_path / "result.json").read_text())
    extractor = load_clip(clip[1])
    wanted = clip_score(
        _features(extractor, images), embed_captions(clip[1], texts), scale=100
    )
    ((name, value),) = result["metrics"].items()
    assert name == f"CLIP-score-{extractor.identity['model']}-x100"
    assert value == pytest.approx(wanted, rel=1e-5)
    (folder / "1.txt").unlink()
    ended = command(*arguments)
    assert ended.code == 1
    assert "1.png of " in ended.err
    assert "has no caption; give a SPEC" in ended.err


def test_clip_score_counts_no_negative_cosine():
    images = np.array([[3.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    texts = np.array([[5.0, 0.0], [0.0, -1.0], [1.0, 0.0]])
    found = clip_score(images, texts, scale=2.5)
    assert found == pytest.approx(2.5 * (1 + 0 + 0.5**0.5) / 3)
    with pytest.raises(UserError, match="a caption for each image"):
        clip_score(images, texts[:2], 1)
    with pytest.raises(UserError, match="NaN"):
        clip_score(images * np.nan, texts, 1)
