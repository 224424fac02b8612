"""`i2i-prior sample`: draws variations of images."""

import argparse
from pathlib import Path

from i2i_prior.commands import common
from i2i_prior.errors import UserError

EXAMPLE = (
    "i2i-prior sample --workdir runs/quickstart --images cat.png dog.jpg "
    "--num 8 --out variations"
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `run`."""
    add = parser.add_argument
    common.add_sampling(parser)
    add("--images", nargs="+", required=True)
    add("--num", type=int, default=8, help="variations each")
    add("--out", required=True, help="folder")


def run(options: argparse.Namespace, overrides: list[str]) -> int:
    """Writes OUT/grid.png and each variation as OUT/NAME-K.png."""
    common.before_jax()
    import numpy as np

    from i2i_prior.data.crops import center_crop
    from i2i_prior.data.find_images import find_images
    from i2i_prior.inference.prior import Prior
    from i2i_prior.io.disk import write_errors
    from i2i_prior.io.progress import Progress
    from i2i_prior.report import image_grid

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
    grid = image_grid.condition_grid(conditions, variations)
    stems = [Path(name).stem for name, _ in named]
    out = Path(options.out)
    with write_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        image_grid.save_png(out / "grid.png", grid)
        for number, row in enumerate(variations):
            stem = stems[number]
            if stems.count(stem) > 1:
                stem = f"{stem}-{number}"
            for k, image in enumerate(row):
                image_grid.save_png(out / f"{stem}-{k}.png", image)
    print(out / "grid.png")
    return 0
