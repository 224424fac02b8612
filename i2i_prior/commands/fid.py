"""`i2i-prior fid`: compares two sets of images, or their statistics."""

from __future__ import annotations

import argparse

from i2i_prior.commands import common

HELP = "Compare two sets of images, or their statistics."
EXAMPLE = (
    "i2i-prior fid folder:/data/flowers samples.npz --metrics fid,kid,pr "
    "--preset adm --json fid.json"
)
OVERRIDES = False


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `run`."""
    images = "folder, .tar, .zip, .npz of images, SPEC, or statistics file"
    parser.add_argument("reference", metavar="A", help=f"reference: {images}")
    parser.add_argument("generated", metavar="B", help="the same, generated")
    parser.add_argument(
        "--metrics",
        help="some of fid, fd, sfid, is, kid, pr, prdc, fd_infinity, cmmd, "
        "clip_score, psnr, ssim, lpips, by commas; else the Frechet distance",
    )
    parser.add_argument(
        "--features",
        default="inception",
        help="inception, dinov2, clip, thumbnails, colour_texture or "
        "FILE.py:function, which is run",
    )
    parser.add_argument(
        "--preset",
        default="adm",
        choices=("adm", "edm2", "pytorch_fid", "clean"),
        help="protocol of Inception's features",
    )
    parser.add_argument("--weights", metavar="FILE", help="of the features")
    parser.add_argument("--lpips-weights", metavar="FILE", help="of lpips")
    parser.add_argument(
        "--size", type=int, help="crop and resize all to this side, pixels"
    )
    parser.add_argument(
        "--num", type=int, help="images of each side, spread evenly, else all"
    )
    parser.add_argument(
        "--skip-broken", action="store_true", help="measure without them"
    )
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--json", metavar="OUT", help="write the result")
    parser.add_argument(
        "--picture", metavar="OUT.png", help="nearest and farthest images of B"
    )
    parser.add_argument(
        "--save-features", metavar="OUT.npz", help="of both sides"
    )
    parser.add_argument(
        "--save-statistics",
        metavar="OUT.npz",
        help="of A, to give in its place",
    )
    parser.add_argument(
        "--no-cache", action="store_true", help="compute features of A again"
    )


def run(options: argparse.Namespace, overrides: list[str]) -> int:
    """Prints the metrics in one line and writes what the options name."""
    common.before_jax()
    from i2i_prior.evaluation.compare_sets import compare_sets

    return compare_sets(options)
