"""`i2i-prior coordinates`: checks that muP keeps updates equal over widths."""

import argparse
from pathlib import Path

from i2i_prior.commands import common

EXAMPLE = (
    "i2i-prior coordinates --config configs/quickstart.py "
    "--widths 80,160,320 --out checked"
)
OVERRIDES = True


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `run`."""
    add = parser.add_argument
    common.add_config(parser)
    add(
        "--widths",
        type=_widths,
        required=True,
        help="channels by commas, multiples of the config's head width",
    )
    add("--steps", type=int, default=10, help="updates each")
    add("--seeds", type=int, default=3, help="models of each")
    add("--out", required=True, help="folder of the result")


def _widths(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def run(options: argparse.Namespace, overrides: list[str]) -> int:
    """Checks, prints a line, writes coordinates.json and coordinates.png."""
    common.before_jax()
    from i2i_prior.checkpoint.run_dir import write_json
    from i2i_prior.config import load_config
    from i2i_prior.io.disk import check_output
    from i2i_prior.io.files import nan_to_null
    from i2i_prior.scaling_laws.coord_check import check, plot, verdict
    from i2i_prior.scaling_laws.figures import save_figure

    out = Path(options.out)
    for name in ("coordinates.json", "coordinates.png"):
        check_output(out / name)
    config = load_config(options.config, overrides)
    result = check(config, options.widths, options.steps, options.seeds)
    write_json(
        out / "coordinates.json", nan_to_null(result), "choose another --out"
    )
    picture = save_figure(out / "coordinates.png", plot, result)
    print(verdict(result))
    print(picture)
    return 0
