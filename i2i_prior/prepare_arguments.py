"""Options of `i2i-prior prepare`."""

from __future__ import annotations

import argparse


def add_prepare(command: argparse.ArgumentParser) -> None:
    """Adds the options that are its own."""
    command.add_argument("--source", required=True, help="SPEC")
    command.add_argument("--out", required=True, help="new folder")
    command.add_argument(
        "--examples-per-shard", type=int, default=4096, help="records a file"
    )
    group = command.add_argument_group("pixels")
    group.add_argument(
        "--size", type=int, default=0, help="side, pixels; 0 leaves it"
    )
    group.add_argument(
        "--crop",
        choices=("center", "none"),
        default="center",
        help="to the central square, or the whole image with --size its "
        "shorter side at most",
    )
    group.add_argument(
        "--encode",
        choices=("keep", "jpeg", "png"),
        help="the bytes as they are, or anew; else jpeg with --size",
    )
    group.add_argument("--quality", type=int, default=95, help="of a jpeg")
    group.add_argument(
        "--min-side", type=int, default=0, help="drop smaller images, pixels"
    )
    group = command.add_argument_group("networks")
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
        default="float16",
        help="of latents and embeddings",
    )
    group.add_argument(
        "--batch-size",
        type=int,
        default=32,
        help="images encoded at once on each device",
    )
    command.add_argument(
        "--workers",
        type=int,
        help="processes on this machine (threads, with networks), else one a "
        "core",
    )
    command.add_argument(
        "--max-broken",
        type=float,
        default=0.01,
        metavar="SHARE",
        help="of records that may be broken",
    )
