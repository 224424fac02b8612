"""Sizes x budgets at equal FLOPs: Chinchilla's approach 2, and 3 with it.

    i2i-prior sweep plan --config configs/sweeps/isoflop.py
    i2i-prior sweep submit SWEEP --config configs/sweeps/isoflop.py \\
        --backend local
    i2i-prior fit --runs SWEEP --out SWEEP/laws

As it stands: Tiny-ImageNet at 16 px, conditioned on a fixed random image
encoder so that the prior alone scales; half an hour on two CPU cores. For
every budget the sizes around an expected optimum are trained, each for as
many steps as the budget pays, counted exactly. Runs of the hold-out budget
are for laws to predict. Larger, and on prepared latents:

    ...isoflop.py:base=configs/tiny_latents.py,budgets=1e14+3e14,centre=2e6 \\
        --config.data.source=arrayrecord:LATENTS \\
        --config.validation.source=arrayrecord:HELD_OUT

The learning rate is constant after the warm-up and falls with the width; the
warm-up and the EMA are shares of a run (`sweeps.rules`). Look at the fit's
warnings: where the best size of a budget is the first or last one, move
`centre`.
"""

import math
from pathlib import Path

from i2i_prior.config import load_config, parse_arg
from i2i_prior.errors import UserError
from i2i_prior.flops.cost import run_cost
from i2i_prior.sweeps.spec.algebra import axis, chain, derived, listed, product
from i2i_prior.sweeps.spec.plan import SweepSpec, configured
from i2i_prior.sweeps.spec.rules import Proportions, of_flops

CONFIGS = Path(__file__).parent.parent
HEAD = 8  # width of a head, at every size
# Width, depth, and the depth of an encoder that is trained along. A model
# narrower than the values of a patch (12 here) could not pass them on: its
# losses lie off the law.
LADDER = {
    "w16d1": (16, 1, 1),
    "w16d2": (16, 2, 1),
    "w24d2": (24, 2, 1),
    "w32d2": (32, 2, 1),
    "w40d2": (40, 2, 1),
    "w48d2": (48, 2, 1),
    "w64d2": (64, 2, 1),
    "w80d2": (80, 2, 1),
    "w96d3": (96, 3, 1),
    "w128d3": (128, 3, 1),
    "w160d4": (160, 4, 2),
    "w192d5": (192, 5, 2),
    "w256d6": (256, 6, 2),
    "w320d8": (320, 8, 3),
    "w448d9": (448, 9, 3),
    "w576d11": (576, 11, 4),
    "w768d12": (768, 12, 4),
}


def get_sweep(arg=""):
    """Arguments; lists have plus signs.

    `budgets=` in FLOPs; `holdout=` likewise, or none, else 4 times the
    largest of them; `sizes=5` at each budget, around `centre=` parameters at
    the first, which grow with the square root of it; `holdout_sizes=1`;
    `rungs=w24d2+w48d2` chooses from the ladder; `batch=16`; `lr=` at width 64
    and `lr_power=` with which it falls with the width; `least_warmup=` steps;
    `validations=` a run; `base=` config; `root=` of the images of the default
    one.
    """
    options = parse_arg(
        arg,
        base="",
        root="../shared/data/tiny_imagenet64",
        budgets="5e10+1e11+2e11+4e11",
        holdout="",
        sizes=5,
        holdout_sizes=1,
        rungs="+".join(LADDER),
        centre=2.6e4,
        batch=16,
        lr=4e-3,
        lr_power=0.5,
        least_warmup=5,
        validations=1,
    )
    small = f"{CONFIGS / 'tiny_imagenet16.py'}:root={options.root}"
    base = load_config(options.base or small)
    base.model.precision = "float32"
    base.data.batch_size = options.batch
    base.optim.schedule = "constant"
    base.train.sample_every = 0
    base.train.evaluate_every = 0
    base.train.checkpoint_keep = 1
    base.train.tensorboard = False

    ladder = {name: size(base, options, name) for name in rungs(options)}
    budgets = listed(options.budgets, float)
    holdouts = [4 * max(budgets)]
    if options.holdout:
        holdouts = listed(options.holdout, float)

    def at(budget, count, role):
        centre = options.centre * math.sqrt(budget / budgets[0])
        chosen = around(base, ladder, centre, count)
        budget_axis = axis("budget", {budget: {}}, role=role)
        return product(axis("size", chosen), budget_axis)

    points = chain(
        *(at(budget, options.sizes, "fit") for budget in budgets),
        *(at(budget, options.holdout_sizes, "holdout") for budget in holdouts),
    )
    proportions = Proportions(
        least_warmup=options.least_warmup, validations=options.validations
    )
    return SweepSpec(
        name="isoflop",
        base=base,
        points=derived(points, of_flops(proportions)),
        notes=(
            f"learning rate {options.lr:g} at width 64, times (64 / width) "
            f"to the power {options.lr_power:g}: check it with lr_transfer.py",
        ),
    )


def rungs(options):
    """Names of the ladder that the arguments choose."""
    names = listed(options.rungs)
    for name in names:
        if name not in LADDER:
            raise UserError(
                f"isoflop.py has no size {name!r}; it has {', '.join(LADDER)}"
            )
    return names


def size(base, options, name):
    """Overrides of one size: the encoder grows along where it is trained."""
    width, depth, encoder_depth = LADDER[name]
    overrides = {
        "model.width": width,
        "model.heads": width // HEAD,
        "model.depth": depth,
        "model.scan_unroll": depth,
        "optim.learning_rate": options.lr * (64 / width) ** options.lr_power,
    }
    if base.encoder.kind == "joint":
        overrides["encoder.width"] = width
        overrides["encoder.heads"] = width // HEAD
        overrides["encoder.depth"] = encoder_depth
    return overrides


def around(base, ladder, centre, count):
    """The sizes nearest to so many parameters, in the ladder's order."""

    def distance(name):
        cost = run_cost(configured(base, ladder[name]))
        return abs(math.log(cost.parameters / centre))

    near = sorted(ladder, key=distance)[:count]
    return {name: ladder[name] for name in ladder if name in near}
