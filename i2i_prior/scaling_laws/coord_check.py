"""Coordinate check of muP (arXiv 2203.03466, appendix D.1).

Models of several widths and one head width train a few steps on the config's
data, in the standard parametrisation and in muP. In a correct implementation
the change of activations of a fixed batch since the start grows with the
width in the standard parametrisation and not in muP.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from i2i_prior.config import config_hash
from i2i_prior.errors import UserError
from i2i_prior.interop.load_frozen import load_frozen
from i2i_prior.io.progress import Progress
from i2i_prior.models.activation_taps import PLACES, ActivationTaps
from i2i_prior.tasks.registry import make_task
from i2i_prior.training.input_pipeline import make_pipeline, open_training
from i2i_prior.training.optimizer import make_optimizer
from i2i_prior.training.train_step import init_state, make_train_step
from i2i_prior.training.validate import validate

# Exponents of the width up to this size count as 0. In muP they are 0 up to
# the noise of few seeds and finite widths; without it they are 0.5 and more.
FLAT = 0.25
LABELS = {"standard": "standard", "mup": "muP"}  # of parametrisations

Batch = dict[str, Any]


def check(
    config: ConfigDict, widths: Sequence[int], steps: int, seeds: int
) -> dict[str, Any]:
    """Trains models of every width in both parametrisations.

    The config gives data, task, depth, head width and learning rate; it runs
    in float32, at a constant learning rate, on one device. muP's base width is
    the config's, or the smallest of `widths`. Each model takes the same
    `steps` batches, from `seeds` seeds, the config's and those after it.

    Returns:
      what coordinates.json holds: `rows` of each model and step with its
      loss on the fixed batch and, by a name of `PLACES`, the RMS of the
      activations' change since the start; `slopes` of log change over log
      width after the last step, and whether all of them are `flat`, by
      parametrisation.

    Raises:
      UserError: for widths that no model of this head width can have.
    """
    model = config.model
    validate(_config(config, model.width, model.heads, 0), 1)
    head = model.width // model.heads
    widths = sorted(set(widths))
    if len(widths) < 2 or any(w < 1 or w % head for w in widths):
        raise UserError(
            f"--widths {','.join(map(str, widths))} must be two or more "
            f"multiples of the head width {head} (model.width / model.heads), "
            "which muP keeps"
        )
    if steps < 1 or seeds < 1:
        raise UserError("--steps and --seeds must be 1 or more")
    base = model.mup_base_width or widths[0]
    configs = {
        (width, name): _config(config, width, width // head, own_base)
        for width in widths
        for name, own_base in zip(LABELS, (0, base), strict=True)
        # At the base width muP is the standard parametrisation.
        if (width, name) != (base, "mup")
    }
    for one in configs.values():
        validate(one, 1)
    batches = _batches(config, steps + 1)
    progress = Progress(len(configs) * seeds, description="models")
    rows: list[dict[str, Any]] = []
    for number, ((width, name), one) in enumerate(configs.items()):
        run = _trainer(one, batches)
        for seed in range(config.seed, config.seed + seeds):
            facts = {"parametrisation": name, "width": width, "seed": seed}
            rows += [facts | row for row in run(seed)]
            progress.update(number * seeds + seed - config.seed + 1)
    progress.close()
    rows += [
        row | {"parametrisation": "mup"} for row in rows if row["width"] == base
    ]
    fitted = {name: slopes(rows, name) for name in LABELS}
    return {
        "config_hash": config_hash(config),
        "widths": widths,
        "base_width": base,
        "head_width": head,
        "steps": steps,
        "seeds": seeds,
        "learning_rate": config.optim.learning_rate,
        "slopes": fitted,
        "flat": {
            name: all(abs(slope) <= FLAT for slope in found.values())
            for name, found in fitted.items()
        },
        "rows": rows,
    }


def slopes(
    rows: Sequence[dict[str, Any]], parametrisation: str
) -> dict[str, float]:
    """Exponents of the width in the change of activations, by place.

    Slopes of least-squares lines through the logs after the last step; NaN
    where a change is zero or not finite.
    """
    last = max(row["step"] for row in rows)
    rows = [
        row
        for row in rows
        if row["step"] == last and row["parametrisation"] == parametrisation
    ]
    widths = np.log([row["width"] for row in rows])
    found = {}
    for place in PLACES:
        if place in rows[0]:
            changes = np.array([row[place] for row in rows])
            found[place] = float("nan")
            if np.isfinite(changes).all() and (changes > 0).all():
                slope, _ = np.polyfit(widths, np.log(changes), 1)
                found[place] = float(slope)
    return found


def verdict(result: dict[str, Any]) -> str:
    """The result in one line: steepest slope of each parametrisation."""
    parts = []
    for name, label in LABELS.items():
        found = result["slopes"][name]
        # NaN, of a model that diverged, is the steepest of all.
        place = max(found, key=lambda p: np.nan_to_num(abs(found[p]), nan=9e9))
        flat = "flat" if result["flat"][name] else "NOT flat"
        parts.append(f"{label} {flat} (steepest {place}: {found[place]:+.2f})")
    return (
        f"changes over width after {result['steps']} steps: "
        f"{'; '.join(parts)}; flat is within {FLAT:g}"
    )


def plot(figure: Any, result: dict[str, Any]) -> None:
    """Fills a figure with the result of `coord_check.check`."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.ticker import MaxNLocator

    names, slopes = list(result["slopes"]), result["slopes"]
    places = [place for place in PLACES if place in slopes[names[0]]]
    widths, steps = result["widths"], result["steps"]
    figure.set_size_inches(2.4 * len(places), 5.4)
    panels = figure.subplots(
        len(names), len(places), squeeze=False, sharex=True, sharey="col"
    )
    colours = ScalarMappable(Normalize(1, max(steps, 2)), "viridis_r")
    for line, name in zip(panels, names, strict=True):
        for panel, place in zip(line, places, strict=True):
            for step in range(1, steps + 1):
                means = [
                    _mean(result["rows"], place, name, step, width)
                    for width in widths
                ]
                colour = colours.to_rgba(np.array([step]))[0]
                panel.plot(widths, means, "o-", ms=3, lw=1.2, color=colour)
            panel.set_xscale("log", base=2)
            panel.set_yscale("log")
            panel.set_xticks(widths, [str(width) for width in widths])
            panel.xaxis.minorticks_off()
            panel.tick_params(which="both", labelsize=8)
            panel.grid(alpha=0.3)
            slope = f"{LABELS[name]}, {place}\nslope {slopes[name][place]:+.2f}"
            panel.set_title(slope, fontsize=9)
        line[0].set_ylabel("RMS change since the start", fontsize=9)
    for panel in panels[-1]:
        panel.set_xlabel("width D, channels", fontsize=9)
    bar = {"fraction": 0.02, "pad": 0.01, "ticks": MaxNLocator(integer=True)}
    figure.colorbar(colours, ax=panels, label="optimizer updates", **bar)
    figure.suptitle(
        f"Coordinate check: base width {result['base_width']}, head width "
        f"{result['head_width']}, learning rate {result['learning_rate']:g}, "
        f"seeds: {result['seeds']}",
        fontsize=10,
    )


def _mean(rows: list[dict[str, Any]], place: str, *key: Any) -> float:
    """Geometric mean over the seeds, of a parametrisation, step and width.

    NaN, which is not drawn, for a change of 0: the output kernel starts at
    zero, so that layers before it have no gradient at the first update.
    """
    fields = ("parametrisation", "step", "width")
    changes = [
        row[place] or math.nan
        for row in rows
        if key == tuple(row[field] for field in fields)
    ]
    return float(np.exp(np.mean(np.log(changes))))


def _config(
    config: ConfigDict, width: int, heads: int, base: int
) -> ConfigDict:
    """The config of one model, reduced to a few training steps."""
    config = config.copy_and_resolve_references()
    config.model.width = width
    config.model.heads = heads
    config.model.mup_base_width = base
    config.model.precision = "float32"
    config.model.scan_unroll = 1  # compiles faster
    config.optim.moment_dtype = "float32"
    config.optim.schedule = "constant"
    config.optim.warmup_steps = 0
    config.train.sample_every = config.train.evaluate_every = 0
    config.validation.every = 0
    config.mesh.update({"replica": 1, "fsdp": 1, "context": 1, "tensor": 1})
    return config


def _batches(config: ConfigDict, count: int) -> list[Batch]:
    """The first batches of training; the last is for evaluation only."""
    rows = range(config.data.batch_size)
    pipeline = make_pipeline(config, open_training(config), rows)
    return [
        {
            name: jnp.asarray(array)
            for name, array in pipeline.batch(step).items()
            if name not in ("index", "broken")
        }
        for step in range(count)
    ]


def _trainer(
    config: ConfigDict, batches: list[Batch]
) -> Callable[[int], list[dict[str, Any]]]:
    """A function of a seed that trains one model and returns a row a step."""
    task = make_task(config)
    *training, fixed = batches
    ratio = task.shapes.dit.ratio
    transform = make_optimizer(config.optim, len(training), ratio)
    keys = jax.random.split(jax.random.key(config.seed))
    draws = task.draw(keys[0], task.shape_of(fixed))
    step = make_train_step(
        task, transform, run_key=keys[1], ema_limit=config.train.ema_decay
    )
    step = jax.jit(step, donate_argnums=0)

    @jax.jit
    def measure(parameters):
        model = task.merged(parameters)
        inputs = task.read(model, fixed, draws.get("posterior"))
        doors = task.doors(model, inputs, fixed, draws)
        model.dit = taps = ActivationTaps(model.dit)
        loss, _ = task.denoising_loss(model, inputs.x0, doors, draws)
        return loss.mean(), taps.seen

    def run(seed: int) -> list[dict[str, Any]]:
        state = init_state(task, transform, jax.random.key(seed))
        frozen = load_frozen(state.frozen, config)
        state = dataclasses.replace(state, frozen=frozen)
        before = jax.device_get(measure({**state.params, **frozen})[1])
        rows = []
        for number, batch in enumerate(training, 1):
            state, _ = step(state, batch)
            loss, now = measure({**state.params, **state.frozen})
            moved = {
                name: float(np.sqrt(np.square(new - before[name]).mean()))
                for name, new in jax.device_get(now).items()
            }
            rows.append({"step": number, "loss": float(loss), **moved})
        return rows

    return run
