"""Preprocessing against transformers' Pillow processors and torchvision."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from i2i_prior.errors import UserError
from i2i_prior.models.encoder_families import FAMILIES
from i2i_prior.models.preprocess import (
    CLIP,
    HALF,
    IMAGENET,
    PREPROCESSING,
    normalise,
    preprocess,
)

SIDE = 32  # a seventh of 224: the same code on less
SIZES = [
    (45, 61),
    (61, 45),
    (40, 47),
    (47, 40),
    (40, 40),
    (33, 90),
    (90, 33),
    (20, 27),
]


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    """Smooth colour with fine noise, tall, wide, square and too small."""
    rng = np.random.default_rng(0)
    made = []
    for height, width in SIZES:
        coarse = rng.integers(0, 256, (5, 5, 3)).astype(np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize((width, height)))
        noise = rng.normal(0, 12, smooth.shape)
        made.append((smooth + noise).clip(0, 255).astype(np.uint8))
    return made


def resized_and_cropped(image, short, side, resample):
    """torchvision's Resize(short), CenterCrop(side) on a Pillow image.

    Resize: the shorter side to `short`, the longer to int(short * long /
    shorter). CenterCrop: corner int(round((size - side) / 2.0)).
    """
    picture = Image.fromarray(image)
    width, height = picture.size
    if width <= height:
        size = (short, int(short * height / width))
    else:
        size = (int(short * width / height), short)
    picture = picture.resize(size, resample)
    left = round((size[0] - side) / 2.0)
    top = round((size[1] - side) / 2.0)
    return np.asarray(picture.crop((left, top, left + side, top + side)))


@pytest.mark.parametrize(
    ("name", "short", "resample"),
    [
        ("dino", SIDE, Image.Resampling.BILINEAR),
        ("dino_eval", 37, Image.Resampling.BICUBIC),
        ("mae_eval", 37, Image.Resampling.BICUBIC),
        ("dinov2_hub", 37, Image.Resampling.BICUBIC),
    ],
)
def test_as_torchvision_does(pictures, name, short, resample):
    ours = preprocess(pictures, PREPROCESSING[name], SIDE)
    mean, std = np.float32(IMAGENET)
    for image, out in zip(pictures, ours, strict=True):
        square = resized_and_cropped(image, short, SIDE, resample)
        assert square.shape == (SIDE, SIDE, 3)
        expected = (np.float32(square) / np.float32(255) - mean) / std
        np.testing.assert_allclose(out, expected, atol=1e-6)


def exact(statistics, resample):
    return {
        "size": {"height": SIDE, "width": SIDE},
        "resample": resample,
        "image_mean": list(statistics[0]),
        "image_std": list(statistics[1]),
    }


def cropped(statistics, short):
    return {
        "size": {"shortest_edge": short},
        "crop_size": {"height": SIDE, "width": SIDE},
        "resample": 3,
        "image_mean": list(statistics[0]),
        "image_std": list(statistics[1]),
    }


# The published preprocessor_config.json of each, at a smaller size.
PROCESSORS = {
    "dino_hf": ("ViT", exact(IMAGENET, 2)),
    "dinov2": ("Bit", cropped(IMAGENET, 37)),
    "clip": ("CLIP", cropped(CLIP, SIDE)),
    "openclip": ("CLIP", cropped(CLIP, SIDE)),
    "siglip": ("Siglip", exact(HALF, 3)),
    "siglip2": ("Siglip", exact(HALF, 2)),
    "mae": ("ViT", exact(IMAGENET, 2)),
    "ijepa": ("ViT", exact(IMAGENET, 2)),
    "ijepa_hf": ("ViT", {"size": exact(HALF, 2)["size"]}),
}


def processor(name, options):
    """transformers' Pillow processor: its name depends on the version."""
    transformers = pytest.importorskip("transformers")
    for suffix in ("ImageProcessorPil", "ImageProcessor"):
        kind = getattr(transformers, f"{name}{suffix}", None)
        if kind is not None:
            return kind(**options)
    raise AssertionError(f"no processor of {name}")


@pytest.mark.parametrize("name", PROCESSORS)
def test_as_transformers_does(pictures, name):
    reference = processor(*PROCESSORS[name])
    expected = reference(pictures, return_tensors="np")["pixel_values"]
    ours = preprocess(pictures, PREPROCESSING[name], SIDE)
    np.testing.assert_allclose(
        ours, np.transpose(expected, (0, 2, 3, 1)), atol=2e-6
    )


def test_every_family_has_one_and_sizes_are_the_published_ones(pictures):
    assert FAMILIES.keys() <= PREPROCESSING.keys()
    assert preprocess(pictures[:1], PREPROCESSING["dinov2"]).shape == (
        1,
        224,
        224,
        3,
    )
    # 224 of 256 pixels, whatever the library.
    for name in ("dino_eval", "dinov2", "mae_eval"):
        assert round(224 / PREPROCESSING[name].crop_share) == 256


def test_normalise_is_the_last_step(pictures):
    record = PREPROCESSING["clip"]
    square = pictures[4]
    ours = normalise(square.astype("f4") / 255, "clip")
    expected = preprocess([square], record, 40)[0]
    np.testing.assert_allclose(ours, expected, atol=1e-6)


def test_bad_input_is_refused(pictures):
    record = PREPROCESSING["dino"]
    for images, size, said in (
        (pictures[:1], 0, "needs an image or more and a size"),
        ([], 8, "needs an image or more and a size"),
        ([pictures[0] / 255], 8, "uint8"),
        ([pictures[0][..., 0]], 8, "uint8"),
    ):
        with pytest.raises(UserError, match=said):
            preprocess(images, record, size)
    with pytest.raises(UserError, match="choose one of dino"):
        normalise(np.zeros(3), "resnet")
