"""`i2i-prior compile --auto`: the fastest layout that fits, by estimate.

A rough model picks what to try (`candidates`), the compiler decides.
The global batch stays what the config says: a search must not change what is
learned.
"""

from typing import Any

import numpy as np
from ml_collections import ConfigDict

from i2i_prior.aot.child import compile_in_child
from i2i_prior.aot.estimate import candidates as model
from i2i_prior.aot.estimate import roofline
from i2i_prior.aot.topologies import Topology
from i2i_prior.config import flatten, from_flat
from i2i_prior.errors import UserError
from i2i_prior.flops.cost import step_flops
from i2i_prior.io.progress import Progress
from i2i_prior.models.dit_config import token_count
from i2i_prior.parallel.mesh import AXES
from i2i_prior.tasks import network
from i2i_prior.tasks.resolve import resolve
from i2i_prior.training.validate import validate

TRIES = 6


def search(
    config: ConfigDict,
    topology: Topology,
    low_effort: bool = False,
    hlo_file: str | None = None,
) -> dict[str, Any]:
    """Compiles the most promising layouts, one after the other.

    Args:
      config: its mesh, model.remat and train.accumulate are searched over.
      topology: the machine.
      low_effort, hlo_file: of the last compilation; see `compile_ahead`.

    Returns:
      the result of the best (see `compile_ahead`), compiled once more, with
      `candidates`: all that were tried, with less effort, best first.

    Raises:
      UserError: for a mistake in the config, or where no layout divides
        batch, heads and tokens.
    """
    _validate(config)
    work = workload(config, topology)
    choices = model.best(work, topology, TRIES)
    if not choices:
        raise UserError(
            f"no mesh lays data.batch_size {work.batch} on the "
            f"{topology.chips} chips of {topology.text}; choose a batch that "
            "is a multiple of the chips"
        )
    progress = Progress(len(choices) + 1, description="compiling")
    results: list[tuple[dict[str, Any], model.Candidate]] = []
    for number, choice in enumerate(choices):
        try:
            changed = _changed(config, choice)
            result = compile_in_child(changed, topology, True, announce=False)
        except UserError as error:
            result = {"fits": False, "reason": str(error)}
        results.append((result, choice))
        progress.update(number + 1, **_speed(result))
    results.sort(key=lambda tried: _rank(tried[0]))
    fastest = _changed(config, results[0][1])
    final = compile_in_child(fastest, topology, low_effort, hlo_file, False)
    progress.update(len(choices) + 1, **_speed(final))
    progress.close()
    rows = [_row(result, choice, work) for result, choice in results]
    return {**final, "candidates": rows}


def _validate(config: ConfigDict) -> None:
    """Validates a config but for the fields that are searched over."""
    plain = from_flat(flatten(config))
    plain.mesh.update(dict.fromkeys(AXES, 1))
    plain.train.accumulate = 1
    validate(plain, 1)


def _changed(config: ConfigDict, choice: model.Candidate) -> ConfigDict:
    changed = from_flat(flatten(config))
    changed.mesh.update(dict(zip(AXES, choice.mesh, strict=True)))
    changed.model.remat = choice.remat
    changed.train.accumulate = choice.accumulate
    return changed


def _speed(result: dict[str, Any]) -> dict[str, float | None]:
    return {
        "images_per_second": result.get("images_per_second_estimate"),
        "mfu": result.get("mfu_estimate"),
    }


def _rank(result: dict[str, Any]) -> tuple:
    seconds = result.get("step_seconds_estimate")
    return (not result["fits"], seconds is None, seconds or 0.0)


def _row(
    result: dict[str, Any], choice: model.Candidate, work: model.Workload
) -> dict[str, Any]:
    estimates = "step_seconds", "images_per_second", "mfu"
    names = "peak_bytes_per_chip", *(f"{name}_estimate" for name in estimates)
    return {
        "mesh": dict(zip(AXES, choice.mesh, strict=True)),
        "remat": choice.remat,
        "accumulate": choice.accumulate,
        "batch_per_shard": choice.micro_batch(work),
        **{name: result.get(name) for name in names},
        "state": "fits" if result["fits"] else result["reason"],
    }


def workload(config: ConfigDict, topology: Topology) -> model.Workload:
    """Numbers of a config that the rough model needs."""
    shapes = resolve(config)
    dit, latent = shapes.dit, shapes.latent
    parameters = network.parameter_shapes(config).items()

    def size(*prefixes: str) -> int:
        """Number of the parameters whose names start so."""
        found = (
            shape for name, shape in parameters if name.startswith(prefixes)
        )
        return sum(int(np.prod(shape.shape)) for shape in found)

    is_frozen = config.encoder.kind == "frozen"
    frozen = size("autoencoder/", *["encoder/"] * is_frozen)
    widths = getattr(latent, "widths", (3,))
    moment = 4 if config.optim.moment_dtype == "float32" else 2
    average = 4 if config.train.ema_dtype == "float32" else 2
    return model.Workload(
        batch=config.data.batch_size,
        depth=dit.depth,
        width=dit.width,
        tokens=token_count(dit),
        heads=dit.heads,
        trained=size("") - frozen,
        frozen=frozen,
        stacked=size("dit/blocks/"),
        state_bytes=4 + 2 * moment + average,
        value_bytes=2 if config.model.precision == "bfloat16" else 4,
        image_values=config.data.image_size**2 * widths[0],
        flops=_flops(config, topology),
    )


def _flops(config: ConfigDict, topology: Topology) -> dict[str, float]:
    """FLOPs of a step as the chips execute them, by remat policy."""
    padded = [roofline.padding(topology, w) for w in roofline.widths(config)]
    changed = from_flat(flatten(config))
    flops = {}
    for policy in model.KEPT:
        changed.model.remat = policy
        flops[policy] = step_flops(changed).executed(*padded)
    return flops
