"""`i2i-prior fid`: compares two sets of images, or their statistics."""

import argparse

from i2i_prior.commands import common

EXAMPLE = (
    "i2i-prior fid folder:/data/flowers samples.npz --metrics fid,kid,pr "
    "--preset adm --json fid.json"
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `run`."""
    add = parser.add_argument
    images = "folder, .tar, .zip, .npz of images, SPEC, or statistics file"
    add("reference", metavar="A", help=f"reference: {images}")
    add("generated", metavar="B", help="the same, generated")
    add(
        "--metrics",
        help="some of fid, fd, sfid, is, kid, pr, prdc, fd_infinity, cmmd, "
        "clip_score, psnr, ssim, lpips, by commas; else the Frechet distance",
    )
    add(
        "--features",
        default="inception",
        help="inception, dinov2, clip, thumbnails, colour_texture or "
        "FILE.py:function, which is run",
    )
    add(
        "--preset",
        default="adm",
        choices=("adm", "edm2", "pytorch_fid", "clean"),
        help="protocol of Inception's features",
    )
    add("--weights", metavar="FILE", help="of the features")
    add("--lpips-weights", metavar="FILE", help="of lpips")
    add("--size", type=int, help="crop and resize all to this side, pixels")
    add("--num", type=int, help="images of each side, spread evenly, else all")
    add("--skip-broken", action="store_true", help="measure without them")
    add("--batch-size", type=int, default=32)
    add("--json", metavar="OUT", help="write the result")
    add("--picture", metavar="OUT.png", help="nearest and farthest images of B")
    add("--save-features", metavar="OUT.npz", help="of both sides")
    add(
        "--save-statistics",
        metavar="OUT.npz",
        help="of A, to give in its place",
    )
    add("--no-cache", action="store_true", help="compute features of A again")


def run(options: argparse.Namespace, overrides: list[str]) -> int:
    """Prints the metrics in one line and writes what the options name."""
    common.before_jax()
    from i2i_prior.evaluation.compare_sets import compare_sets

    return compare_sets(options)
