"""Checks of the options of `i2i-prior prepare`."""

import argparse

from i2i_prior.data.prepare.examples import Pictures
from i2i_prior.errors import UserError

DTYPE, BATCH_SIZE = "float16", 32  # if the options are left out


def pictures_of(options: argparse.Namespace) -> Pictures:
    """Options of the pixels, checked without files; UserError if one is out of
    range, has no effect, or does not fit another."""
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
    """Raises UserError for options of stored images if none is stored.

    With latents these are the `further` images alone.
    """
    unused = options.latents and not further
    for name in ("encode", "quality"):
        if unused and getattr(options, name) is not None:
            raise UserError(
                f"{_flag(name)} has no effect with --latents, which stores no "
                "image: leave it out"
            )


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
