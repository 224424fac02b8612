"""Reconstruction quality of decoded images: PSNR and SSIM.

Both take 8-bit images and give one number a pair; the number of a data set is
their mean.
"""

from __future__ import annotations

import numpy as np

from i2i_prior.errors import UserError

_PEAK = 255.0
_WINDOW = 11


def psnr(images: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio, 10 log10(255^2 / MSE) decibels a pair.

    Args:
        images, others: uint8 (n, H, W, C).

    Returns:
        (n,) float64, infinite for equal images; the error is the mean over
        pixels and channels.

    Raises:
        UserError: anything but two uint8 arrays of one shape.
    """
    _check_pairs(images, others)
    errors = np.array(
        [
            np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2)
            for a, b in zip(images, others, strict=True)
        ]
    )
    with np.errstate(divide="ignore"):
        return 10.0 * np.log10(_PEAK**2 / errors)


def ssim(images: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Structural similarity, at most 1 (Wang et al. 2004, equation 13).

    ("Image Quality Assessment: From Error Visibility to Structural
    Similarity".) As published: an 11 x 11 Gaussian window of standard
    deviation 1.5, moments divided by the sum of weights, K1 = 0.01,
    K2 = 0.03, and the mean over the places where the window fits, and over the
    channels.

    Args:
        images, others: uint8 (n, H, W, C), H and W at least 11.

    Returns:
        (n,) float64.

    Raises:
        UserError: as `psnr`, or images smaller than the window.
    """
    from skimage.metrics import structural_similarity

    _check_pairs(images, others)
    if min(images.shape[1:3]) < _WINDOW:
        raise UserError(
            f"SSIM needs images of {_WINDOW} x {_WINDOW} pixels at least, not "
            f"{images.shape[1]} x {images.shape[2]}."
        )
    return np.array(
        [
            structural_similarity(
                a,
                b,
                gaussian_weights=True,
                sigma=1.5,
                use_sample_covariance=False,
                data_range=_PEAK,
                channel_axis=-1,
            )
            for a, b in zip(images, others, strict=True)
        ]
    )


def _check_pairs(images: np.ndarray, others: np.ndarray) -> None:
    good = images.dtype == others.dtype == np.uint8 and images.ndim == 4
    if not good or images.shape != others.shape:
        raise UserError(
            "reconstructions are compared as uint8 images (n, H, W, C) of one "
            f"shape, not as {images.dtype} {images.shape} and {others.dtype} "
            f"{others.shape}."
        )
