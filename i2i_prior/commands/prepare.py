"""`i2i-prior prepare`: makes a sharded data set of a source."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from i2i_prior.commands import common
from i2i_prior.errors import UserError

if TYPE_CHECKING:
    from i2i_prior.data.prepare.examples import Pictures

HELP = "Make a sharded data set of a source."
EXAMPLE = (
    "i2i-prior prepare --source 'tar:/data/*.tar' --out latents --size 256 "
    "--latents sd --latent-weights sd-vae/ --embeddings dino=dino.pth:cls "
    "--flip"
)
OVERRIDES = False

DTYPE, BATCH_SIZE = "float16", 32  # if the options are left out


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `run`."""
    parser.add_argument("--source", required=True, help="SPEC")
    parser.add_argument("--out", required=True, help="new folder")
    parser.add_argument(
        "--examples-per-shard", type=int, default=4096, help="records a file"
    )
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
        help="the bytes as they are, or anew; else jpeg with --size",
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
        help=f"of latents and embeddings, else {DTYPE}",
    )
    group.add_argument(
        "--batch-size",
        type=int,
        help=f"images encoded at once on each device, else {BATCH_SIZE}",
    )
    parser.add_argument(
        "--workers",
        type=int,
        help="processes on this machine (threads, with networks), else one a "
        "core",
    )
    parser.add_argument(
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


def pictures_of(options: argparse.Namespace) -> Pictures:
    """The work on pixels that the options name, checked without files.

    Raises:
      UserError: for options out of range, that do not go together, or that
        would have no effect.
    """
    from i2i_prior.data.prepare.examples import Pictures

    if bool(options.latents) != bool(options.latent_weights):
        raise UserError("--latents and --latent-weights belong together")
    if options.latents and options.crop == "none":
        raise UserError("--latents needs squares: leave --crop none out")
    networks = options.latents or options.embeddings
    if options.flip and not networks:
        raise UserError(
            "--flip mirrors what --latents and --embeddings encode, and "
            "neither is there: leave it out (training mirrors images itself)"
        )
    for name in ("dtype", "batch_size"):
        if getattr(options, name) is not None and not networks:
            raise UserError(
                f"{_flag(name)} is of what --latents and --embeddings encode, "
                "and neither is there: leave it out"
            )
    if options.crop and not options.size:
        raise UserError("--crop has no effect without --size: add it")
    for name in ("examples_per_shard", "batch_size", "workers"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UserError(f"{_flag(name)} must be 1 or more")
    if not 0 <= options.max_broken <= 1:
        raise UserError("--max-broken is a share, from 0 to 1")
    encode = options.encode or ("jpeg" if options.size else "keep")
    if options.quality is not None and encode != "jpeg":
        raise UserError(
            f"--quality is of a jpeg, and --encode is {encode}: choose jpeg, "
            "or leave --quality out"
        )
    given = {"crop": options.crop, "quality": options.quality}
    return Pictures(
        size=options.size,
        encode=encode,
        min_side=options.min_side,
        **{name: v for name, v in given.items() if v is not None},
    )


def check_stored(options: argparse.Namespace, further: tuple[str, ...]) -> None:
    """Checks that options of stored images come with stored images.

    Args:
      options: of the command.
      further: names of the further images, which are stored with latents.

    Raises:
      UserError: names the option.
    """
    if not options.latents or further:
        return
    for name in ("encode", "quality"):
        if getattr(options, name) is not None:
            raise UserError(
                f"{_flag(name)} has no effect with --latents, which stores no "
                "image: leave it out"
            )


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
