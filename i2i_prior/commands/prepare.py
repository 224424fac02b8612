"""`i2i-prior prepare`: makes a sharded data set of a source."""

import argparse

from i2i_prior.commands import common

EXAMPLE = (
    "i2i-prior prepare --source 'tar:/data/*.tar' --out latents --size 256 "
    "--latents sd --latent-weights sd-vae/ --embeddings dino=dino.pth:cls "
    "--flip"
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `run`."""
    add = parser.add_argument
    add("--source", required=True, help="SPEC")
    add("--out", required=True, help="new folder")
    add("--examples-per-shard", type=int, default=4096, help="records a file")
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
    add = parser.add_argument_group("pixels").add_argument
    add("--size", type=int, default=0, help="side, pixels; 0 leaves it")
    add(
        "--crop",
        choices=("center", "none"),
        help="with --size: to the central square (default), or the whole "
        "image with --size its shorter side at most",
    )
    add(
        "--encode",
        choices=("keep", "jpeg", "png"),
        help="keep the bytes, or encode again; else jpeg with --size",
    )
    add("--quality", type=int, help="of a jpeg, else 95")
    add("--min-side", type=int, default=0, help="drop smaller images, pixels")
    add = parser.add_argument_group("networks").add_argument
    add("--latents", metavar="KIND", help="as sd, flux2: instead of images")
    add(
        "--latent-weights",
        metavar="FILE",
        help="of the autoencoder; a tiny pair as ENCODER,DECODER",
    )
    add(
        "--embeddings",
        nargs="+",
        default=[],
        metavar="NAME=FILE[:cls|patches]",
        help="of image encoders",
    )
    add("--flip", action="store_true", help="encode mirrored images too")
    add(
        "--dtype",
        choices=("float16", "bfloat16"),
        help="of latents and embeddings, else float16",
    )
    add(
        "--batch-size",
        type=int,
        help="images encoded at once on each device, else 32",
    )
    common.add_processes(parser)


def run(options: argparse.Namespace, overrides: list[str]) -> int:
    """Makes the shards, or those that are missing."""
    common.before_jax()
    from i2i_prior.commands.prepare_shards import prepare

    with common.session(options):
        return prepare(options)
