"""`i2i-prior prepare`: makes a sharded data set of a source."""

from __future__ import annotations

import argparse

from i2i_prior.commands import common

EXAMPLE = (
    "i2i-prior prepare --source 'tar:/data/*.tar' --out latents --size 256 "
    "--latents sd --latent-weights sd-vae/ --embeddings dino=dino.pth:cls "
    "--flip"
)
OVERRIDES = False


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `run`."""
    add = parser.add_argument
    add("--source", required=True, help="SPEC")
    add("--out", required=True, help="new folder")
    add("--examples-per-shard", type=int, default=4096, help="records a file")
    group = parser.add_argument_group("pixels")
    group.add_argument(
        "--size", type=int, default=0, help="side, pixels; 0 leaves it"
    )
    group.add_argument(
        "--crop",
        choices=("center", "none"),
        help="with --size: to the central square (default), or the whole "
        "image with --size its shorter side at most",
    )
    group.add_argument(
        "--encode",
        choices=("keep", "jpeg", "png"),
        help="keep the bytes, or encode again; else jpeg with --size",
    )
    group.add_argument("--quality", type=int, help="of a jpeg, else 95")
    group.add_argument(
        "--min-side", type=int, default=0, help="drop smaller images, pixels"
    )
    group = parser.add_argument_group("networks")
    group.add_argument(
        "--latents", metavar="KIND", help="as sd, flux2: instead of images"
    )
    group.add_argument(
        "--latent-weights",
        metavar="FILE",
        help="of the autoencoder; a tiny pair as ENCODER,DECODER",
    )
    group.add_argument(
        "--embeddings",
        nargs="+",
        default=[],
        metavar="NAME=FILE[:cls|patches]",
        help="of image encoders",
    )
    group.add_argument(
        "--flip", action="store_true", help="encode mirrored images too"
    )
    group.add_argument(
        "--dtype",
        choices=("float16", "bfloat16"),
        help="of latents and embeddings, else float16",
    )
    group.add_argument(
        "--batch-size",
        type=int,
        help="images encoded at once on each device, else 32",
    )
    add(
        "--workers",
        type=int,
        help="processes on this machine (threads, with networks), else one a "
        "core",
    )
    add(
        "--max-broken",
        type=float,
        default=0.01,
        metavar="SHARE",
        help="of records that may be broken",
    )
    common.add_processes(parser)


def run(options: argparse.Namespace, overrides: list[str]) -> int:
    """Makes the shards, or those that are missing."""
    common.before_jax()
    from i2i_prior.commands.prepare_shards import prepare

    with common.session(options):
        return prepare(options)
