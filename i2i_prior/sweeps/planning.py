"""`i2i-prior sweep plan`: plans a sweep file into a sweep's folder."""

import argparse
import functools
import os
import re
import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from i2i_prior.aot.machine import machine
from i2i_prior.config import flatten, override
from i2i_prior.config.config import current
from i2i_prior.errors import UserError
from i2i_prior.io.python_files import running
from i2i_prior.sweeps.backends import read_launch
from i2i_prior.sweeps.plan_table import as_text
from i2i_prior.sweeps.run.folder import UNCHANGED, write_plan
from i2i_prior.sweeps.run.store import Sweep
from i2i_prior.sweeps.spec.plan import Plan, SweepSpec, make_plan
from i2i_prior.version import __version__

# Sources whose images are counted for epochs: local and fast ones.
_COUNTED = ("folder:", "tar:", "arrayrecord:", "select:", "builtin:", "mix:")


def plan(options: argparse.Namespace, overrides: Sequence[str]) -> int:
    """Runs `i2i-prior sweep plan`: prints a plan, and with --out writes it.

    Overrides change the base config of all runs.
    """
    there = machine(
        options.accelerator,
        options.mfu,
        options.flops_per_second,
        options.price_per_chip_hour,
    )
    chips = there.chips if options.accelerator and there else 1
    made = _make_plan(options.config, overrides, options.images, chips)
    print(as_text(made, there, options.all))
    if options.out is None:
        print("nothing is written without --out SWEEP")
        return 0
    facts = _facts(options.config, overrides, made)
    sweep, changes = write_plan(made, Path(options.out), facts, options.replace)
    print(f"runs in {sweep.path}: {changes}")
    backend = "" if read_launch(sweep).last else " --backend local"
    quoted = shlex.quote(options.out)
    print(f"start it with: i2i-prior sweep submit {quoted}{backend}")
    return 0


def plan_folder(
    config: str,
    out: str | Path,
    overrides: Sequence[str] = (),
    *,
    replace: bool = False,
    show: bool = False,
) -> Sweep:
    """Plans a sweep file into a folder, or adds runs to its earlier plan.

    `config` is FILE.py or FILE.py:ARGS, `overrides` are `field=value` of the
    base config. In the sweep's folder `out` the same plan changes nothing, a
    larger one adds its runs. `replace` drops planned runs that the plan no
    longer has, if none of them was ever submitted; `show` prints the plan,
    unless it is the earlier one.

    UserError for a mistake of the file or of a run, or where the folder holds
    something else, or would lose a run.
    """
    made = _make_plan(config, overrides, None, 1)
    facts = _facts(config, overrides, made)
    sweep, changes = write_plan(made, Path(out), facts, replace)
    if show and changes != UNCHANGED:
        print(as_text(made, None, False))
    return sweep


def load_sweep(config: str, overrides: Sequence[str] = ()) -> SweepSpec:
    """Runs a sweep file and applies overrides to its base config.

    UserError where the file is missing, has no `get_sweep` or an error, or a
    field is unknown.
    """
    path, _, arg = config.partition(".py:")
    file = Path(path if path.endswith(".py") else path + ".py")
    if not file.is_file():
        raise UserError(
            f"no sweep file {file}; give a path like configs/sweeps/isoflop.py"
        )
    with running("sweep file", file) as module:
        if not hasattr(module, "get_sweep"):
            raise UserError(
                f"{file} has no get_sweep(arg); a config for one run is "
                "trained with i2i-prior train"
            )
        sweep = module.get_sweep(arg)
        if not isinstance(sweep, SweepSpec):
            raise TypeError("get_sweep returned no SweepSpec")
    override(sweep.base, overrides)
    return sweep


def _make_plan(
    config: str, overrides: Sequence[str], images: int | None, devices: int
) -> Plan:
    spec = load_sweep(config, overrides)
    if images is not None and images < 1:
        raise UserError(f"--images is {images}; give 1 or more")

    @functools.cache
    def count(source: str) -> int | None:
        return _count(source) if images is None else images

    made = make_plan(spec, count, devices)
    base = flatten(spec.base)
    for text in overrides:
        name, _ = current(text.partition("=")[0], "")
        if any(flat[name] != base[name] for flat in made.configs.values()):
            raise UserError(
                f"--config.{name} would have no effect: the sweep sets it "
                f"itself; change {config.partition(':')[0]} or its arguments"
            )
    return made


def _count(source: str) -> int | None:
    """Counts the images of a SPEC; None where that would take long."""
    sample = re.search(r"[#,]sample=(\d+)$", source)
    if sample:
        return int(sample[1])
    if not source.startswith(_COUNTED) or "://" in source:
        return None
    from i2i_prior.data.sources.registry import open_source

    try:
        return len(open_source(source))
    except UserError:  # planned here, trained where the data are
        return None


def _facts(config: str, overrides: Sequence[str], made: Plan) -> dict[str, Any]:
    spec = made.spec
    return {
        "name": spec.name,
        "source": config,
        "overrides": list(overrides),
        "metric": spec.metric,
        "notes": list(spec.notes),
        "left_out": made.left_out,
        # Relative paths of the configs, as ../data, start here.
        "cwd": os.getcwd(),
        "version": __version__,
        "planned": round(time.time()),
    }
