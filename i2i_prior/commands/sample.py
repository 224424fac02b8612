"""What the subcommands do with a trained prior."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np

from i2i_prior.data.decode_image import (
    BrokenImage,
    center_crop,
    decode,
)
from i2i_prior.data.open_image import open_image
from i2i_prior.data.sources import OPENERS, open_source
from i2i_prior.errors import UserError
from i2i_prior.inference.prior import Prior
from i2i_prior.io.progress import (
    Progress,
)
from i2i_prior.report import image_grid

# Conditions that fit one grid.
MOST_IMAGES = 64


def sample(options: argparse.Namespace) -> int:
    """Writes OUT/grid.png and each variation as OUT/NAME-K.png."""
    if options.num < 1:
        raise UserError("--num must be 1 or more")
    named = [pair for text in options.images for pair in find_images(text)]
    images = [image for _, image in named]
    prior = Prior.load(options.workdir, options.step)
    progress = Progress(len(images) * options.num, description="sampling")
    variations = prior.vary(
        images,
        options.num,
        steps=options.steps,
        guidance=options.guidance,
        solver=options.solver,
        seed=options.seed,
        progress=progress.update,
    )
    progress.close()
    size = variations.shape[2]
    conditions = np.stack([center_crop(image, size) for image in images])
    out = _folder(options.out)
    image_grid.save_png(
        out / "grid.png", image_grid.condition_grid(conditions, variations)
    )
    stems = [Path(name).stem for name, _ in named]
    for number, (stem, row) in enumerate(zip(stems, variations, strict=True)):
        if stems.count(stem) > 1:
            stem = f"{stem}-{number}"
        for k, image in enumerate(row):
            image_grid.save_png(out / f"{stem}-{k}.png", image)
    print(out / "grid.png")
    return 0


def interpolate(options: argparse.Namespace) -> int:
    """Writes a PNG strip or a GIF that goes there and back."""
    out = Path(options.out)
    if out.suffix not in (".png", ".gif"):
        raise UserError(f"--out {out} should end in .png or .gif")
    ends = [find_images(text)[0][1] for text in (options.start, options.end)]
    prior = Prior.load(options.workdir, options.step)
    frames = prior.interpolate(
        ends[0],
        ends[1],
        options.frames,
        method=options.method,
        steps=options.steps,
        guidance=options.guidance,
        solver=options.solver,
        seed=options.seed,
    )
    _folder(out.parent)
    scale = max(1, 96 // frames.shape[1])
    if out.suffix == ".gif":
        larger = frames.repeat(scale, axis=1).repeat(scale, axis=2)
        image_grid.save_gif(out, larger)
    else:
        size = frames.shape[1]
        first, last = (center_crop(end, size)[None] for end in ends)
        strip = np.concatenate([first, frames, last])
        labels = ["start", *[""] * len(frames), "end"]
        picture = image_grid.grid(
            strip, columns=len(strip), scale=scale, column_labels=labels
        )
        image_grid.save_png(out, picture)
    print(out)
    return 0


def find_images(text: str) -> list[tuple[str, np.ndarray]]:
    """A path, a SPEC, or SPEC#NAME -> (name, uint8 (H, W, 3)) of each image.

    What stands behind a SPEC's `#` is a name unless it is options.

    Raises:
      UserError: where there is none, it is unreadable, or the SPEC holds
        more than fit in one picture.
    """
    scheme = text.partition(":")[0]
    if scheme not in (*OPENERS, "mix") or Path(text).exists():
        return [(Path(text).name, open_image(text))]
    spec, _, wanted = text.rpartition("#")
    if not spec or "=" in wanted:
        spec, wanted = text, ""
    source = open_source(spec)
    if not wanted and len(source) > MOST_IMAGES:
        raise UserError(
            f"{spec} holds {len(source)} images; name one as {spec}#NAME"
        )
    records = (source[i] for i in range(len(source)))
    try:
        found = [
            (record.name, decode(record))
            for record in records
            if wanted in ("", record.name)
        ]
    except BrokenImage as error:
        raise UserError(f"an image of {spec} is unusable: {error}") from error
    if not found:
        raise UserError(f"{spec} holds no image named {wanted}")
    return found


def _folder(path: str | Path) -> Path:
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot make the folder {path} ({os.strerror(error.errno or 0)})"
        ) from error
    return path
