"""Metrics of pairs: each image of one set with its own in the other."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from i2i_prior.errors import UserError
from i2i_prior.evaluation.features.lpips import load_lpips
from i2i_prior.evaluation.sets.collect import mixed_sizes, rebatch

# Two uint8 arrays (n, H, W, 3) of one shape -> n numbers.
PairFunction = Callable[[np.ndarray, np.ndarray], np.ndarray]

_PEAK = 255.0
_WINDOW = 11  # pixels of SSIM


def psnr(images: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio, 10 log10(255^2 / MSE) decibels a pair.

    Infinite for equal images; the error is the mean over pixels and channels.
    """
    from skimage.metrics import peak_signal_noise_ratio

    with np.errstate(divide="ignore"):
        return np.array(
            [
                peak_signal_noise_ratio(a, b, data_range=_PEAK)
                for a, b in zip(images, others, strict=True)
            ]
        )


def ssim(images: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Structural similarity, at most 1 (Wang et al. 2004, equation 13).

    ("Image Quality Assessment: From Error Visibility to Structural
    Similarity".) As published: an 11 x 11 Gaussian window of standard
    deviation 1.5, moments divided by the sum of weights, K1 = 0.01,
    K2 = 0.03, and the mean over the places where the window fits, and over the
    channels. UserError for images smaller than the window.
    """
    from skimage.metrics import structural_similarity

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


_LPIPS = "lpips"
_PLAIN: dict[str, PairFunction] = {"psnr": psnr, "ssim": ssim}
PAIRS = (*_PLAIN, _LPIPS)
# Pattern of the results' names -> whether lower is better.
PAIR_DIRECTIONS = {"PSNR": False, "SSIM": False, "LPIPS*": True}
_AT_ONCE = 16


def pair_functions(
    metrics: Sequence[str], lpips_weights: str | Path | None = None
) -> dict[str, PairFunction]:
    """Functions of some PAIRS, by the name of their result, "LPIPS-alex".

    UserError for LPIPS without weights, or with others.
    """
    found = {name.upper(): _PLAIN[name] for name in metrics if name in _PLAIN}
    if _LPIPS in metrics:
        if lpips_weights is None:
            raise UserError(
                "lpips needs the weights of its network; give --lpips-weights "
                "FILE, or ask for psnr and ssim."
            )
        network = load_lpips(lpips_weights)
        found[network.label] = network
    return found


def measure_pairs(
    reference: Iterable[np.ndarray],
    generated: Iterable[np.ndarray],
    functions: Mapping[str, PairFunction],
    progress: Callable[[int], Any] | None = None,
) -> dict[str, float]:
    """Means over the pairs, by name.

    Both sides are uint8 (n, H, W, 3) batches of any n, images in the same
    order; `progress` is called with the number of finished pairs. UserError
    where there are more images on one side, or of another size.
    """
    found: dict[str, list[float]] = {name: [] for name in functions}
    sides = rebatch(reference, _AT_ONCE), rebatch(generated, _AT_ONCE)
    done = 0
    for images, others in zip_longest(*sides):
        if images is None or others is None or len(images) != len(others):
            raise UserError(
                f"{' and '.join(functions)} need pairs, and one side has more "
                "images; give sets of the same images in the same order."
            )
        if images.shape != others.shape:
            raise mixed_sizes(images.shape[1:3], others.shape[1:3])
        for name, function in functions.items():
            found[name] += function(images, others).tolist()
        done += len(images)
        if progress is not None:
            progress(done)
    return {name: float(np.mean(values)) for name, values in found.items()}
