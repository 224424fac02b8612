"""PSNR and SSIM from their definitions."""

from __future__ import annotations

import numpy as np
import pytest

from i2i_prior.errors import UserError
from i2i_prior.evaluation.pairs import psnr, ssim


def pairs() -> tuple[np.ndarray, np.ndarray]:
    """Two coarse pictures (17, 15, 3), one slightly and one much disturbed."""
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (2, 17, 15, 3))
    noise = draw.normal(size=images.shape)
    noise *= np.array([5, 60]).reshape(2, 1, 1, 1)
    others = (images + noise).clip(0, 255)
    return images.astype(np.uint8), others.astype(np.uint8)


def test_psnr_from_its_definition():
    images, others = pairs()
    gap = images.astype(float) - others
    expected = 20 * np.log10(255 / np.sqrt((gap**2).mean(axis=(1, 2, 3))))
    np.testing.assert_allclose(psnr(images, others), expected, rtol=1e-12)
    assert psnr(images, images).tolist() == [np.inf, np.inf]


def test_one_level_off_everywhere():
    black = np.zeros((1, 12, 12, 3), np.uint8)
    assert psnr(black, black + 1) == pytest.approx(48.1308, abs=1e-4)
    assert psnr(black, black + 255) == pytest.approx(0, abs=1e-12)


def test_ssim_from_its_definition():
    """Window by window, as the paper writes it."""
    images, others = pairs()
    bell = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    weights = np.outer(bell, bell) / bell.sum() ** 2
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2

    def window(a, b):
        mean_a, mean_b = (weights * a).sum(), (weights * b).sum()
        var_a = (weights * (a - mean_a) ** 2).sum()
        var_b = (weights * (b - mean_b) ** 2).sum()
        cov = (weights * (a - mean_a) * (b - mean_b)).sum()
        light = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
        return light * (2 * cov + c2) / (var_a + var_b + c2)

    def similarity(a, b):
        places = [
            (slice(y, y + 11), slice(x, x + 11), c)
            for y in range(7)
            for x in range(5)
            for c in range(3)
        ]
        return np.mean([window(a[place], b[place]) for place in places])

    expected = [
        similarity(a, b)
        for a, b in zip(images.astype(float), others.astype(float), strict=True)
    ]
    found = ssim(images, others)
    np.testing.assert_allclose(found, expected, rtol=1e-10)
    assert found[0] > 0.9 > found[1]
    np.testing.assert_allclose(ssim(images, images), 1, rtol=1e-14)


def test_small_images_have_no_ssim():
    images, others = pairs()
    with pytest.raises(UserError, match="11 x 11 pixels"):
        ssim(images[:, :10], others[:, :10])
