"""`i2i-prior interpolate`: draws the images between two."""

import argparse
from pathlib import Path

from i2i_prior.commands import common
from i2i_prior.errors import UserError

EXAMPLE = (
    "i2i-prior interpolate --workdir runs/quickstart --start a.png "
    "--end b.png --frames 12 --out walk.gif"
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `run`."""
    add = parser.add_argument
    common.add_sampling(parser)
    add("--start", required=True)
    add("--end", required=True)
    add("--frames", type=int, default=12)
    add("--method", choices=("lerp", "slerp"), default="lerp")
    add("--out", required=True, help="FILE.png or FILE.gif")


def run(options: argparse.Namespace, overrides: list[str]) -> int:
    """Writes a PNG strip or a GIF that goes there and back."""
    common.before_jax()
    import numpy as np

    from i2i_prior.data.crops import center_crop
    from i2i_prior.data.find_images import find_images
    from i2i_prior.inference.prior import Prior
    from i2i_prior.io.disk import write_errors
    from i2i_prior.report import image_grid

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
    scale = max(1, 96 // frames.shape[1])
    size = frames.shape[1]
    first, last = (center_crop(end, size)[None] for end in ends)
    with write_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        if out.suffix == ".gif":
            larger = frames.repeat(scale, axis=1).repeat(scale, axis=2)
            image_grid.save_gif(out, larger)
        else:
            strip = np.concatenate([first, frames, last])
            labels = ["start", *[""] * len(frames), "end"]
            picture = image_grid.grid(
                strip, columns=len(strip), scale=scale, column_labels=labels
            )
            image_grid.save_png(out, picture)
    print(out)
    return 0
