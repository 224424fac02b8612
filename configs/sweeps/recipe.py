"""One change at a time: objective, condition, block, each with seeds.

    i2i-prior sweep plan --config configs/sweeps/recipe.py
    i2i-prior sweep submit SWEEP --config configs/sweeps/recipe.py \\
        --backend local
    i2i-prior sweep collect SWEEP

As it stands: configs/tiny_imagenet64.py and nine changes of it, three seeds
each, all for as many steps; `min_snr` is a change of `ddpm_v`. Losses of two
objectives do not compare, so runs are scored by the Frechet distance of their
samples; take a difference for real where it is larger than that between
seeds.
"""

from pathlib import Path

from i2i_prior.config import load_config, parse_arg
from i2i_prior.errors import UserError
from i2i_prior.sweeps.spec.algebra import axis, chain, derived, listed, product
from i2i_prior.sweeps.spec.plan import SweepSpec
from i2i_prior.sweeps.spec.rules import Proportions

CONFIGS = Path(__file__).parent.parent
DDPM = {"diffusion.path": "ddpm_cosine", "diffusion.time": "uniform"}
# factor -> value -> what it changes in the base config
FACTORS = {
    "objective": {
        "uniform_time": {"diffusion.time": "uniform"},
        "ddpm_eps": {**DDPM, "diffusion.prediction": "eps"},
        "ddpm_v": {**DDPM, "diffusion.prediction": "v"},
        "min_snr": {
            **DDPM,
            "diffusion.prediction": "v",
            "diffusion.weighting": "min_snr",
        },
    },
    "condition": {
        "cls": {"conditioner.tokens_from": "cls", "conditioner.expand": 4},
        "pyramid": {"conditioner.tokens_from": "pyramid"},
        "normalized": {"conditioner.normalize": True},
    },
    "block": {
        "lumos": {"model.block": "lumos"},
        "pixart": {"model.block": "pixart"},
    },
}


def get_sweep(arg=""):
    """`factors=objective+condition+block`, `seeds=` how many, `steps=`,
    `batch=` of each run; `base=` config, `root=` of its images."""
    options = parse_arg(
        arg,
        base="",
        root="../shared/data/tiny_imagenet64",
        factors="+".join(FACTORS),
        seeds=3,
        steps=3000,
        batch=32,
        samples=512,
    )
    tiny = f"{CONFIGS / 'tiny_imagenet64.py'}:root={options.root}"
    base = load_config(options.base or tiny)
    base.data.batch_size = options.batch
    base.train.sample_every = 0
    base.train.evaluate_every = options.steps
    base.evaluate.num_samples = options.samples
    recipes = [axis("recipe", {"base": {}})]
    for factor in listed(options.factors):
        if factor not in FACTORS:
            raise UserError(
                f"recipe.py has no factor {factor!r}; it has "
                f"{', '.join(FACTORS)}"
            )
        recipes.append(axis("recipe", FACTORS[factor]))
    # No law is of these: losses of other objectives do not compare.
    seeds = axis("seed", range(options.seeds), role="tune")
    proportions = Proportions(validations=3)
    return SweepSpec(
        name="recipe",
        base=base,
        points=derived(
            product(chain(*recipes), seeds),
            lambda _: proportions.of(options.steps),
        ),
        metric="eval/fd",
        notes=("losses of different objectives do not compare",),
    )
