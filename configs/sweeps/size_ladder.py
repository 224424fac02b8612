"""Sizes S to XL at a fixed number of tokens: what a larger model buys.

    i2i-prior sweep plan --config configs/sweeps/size_ladder.py \\
        --config.data.source=arrayrecord:LATENTS \\
        --config.validation.source=arrayrecord:HELD_OUT \\
        --accelerator v5e:8x8 --mfu 0.35 --images 50000000 --out SWEEP
    i2i-prior sweep submit SWEEP --backend slurm

As it stands: Lumos blocks on prepared latents of 256-px images, 50 million of
them seen (1.28e10 tokens, batch 1024, 48,828 steps). With muP (the default)
the learning rate of S carries over to other widths (depth is no part of it);
heads are 64 wide at every size for that: XL has 18 then, not 16.
"""

from pathlib import Path

from i2i_prior.config import load_config, parse_arg
from i2i_prior.models.presets import preset
from i2i_prior.sweeps.spec.algebra import axis, derived, listed
from i2i_prior.sweeps.spec.plan import SweepSpec
from i2i_prior.sweeps.spec.rules import Proportions, of_tokens

CONFIGS = Path(__file__).parent.parent
HEAD = 64  # width of a head under muP, which keeps it


def get_sweep(arg=""):
    """`sizes=s+b+l+xl` of a `family=` and `patch=` (see models.presets),
    `tokens=` that each run sees, `batch=`, `lr=` of S, `mup=false` for one
    learning rate without muP; `base=` config of everything else."""
    options = parse_arg(
        arg,
        base="",
        sizes="s+b+l+xl",
        family="lumos",
        patch=2,
        tokens=1.28e10,
        batch=1024,
        lr=2e-4,
        mup=True,
        validations=10,
    )
    base = load_config(
        options.base or f"{CONFIGS / 'lumos_xl2.py'}:cached=true"
    )
    if base.data.cached:
        base.encoder.kind = "none"
    base.data.batch_size = options.batch
    base.optim.learning_rate = options.lr
    base.train.sample_every = 0
    base.train.evaluate_every = 0
    shapes = {
        size: preset(f"{options.family}_{size}{options.patch}")
        for size in listed(options.sizes)
    }
    if options.mup:
        base.model.mup_base_width = min(s["width"] for s in shapes.values())
        for shape in shapes.values():
            shape["heads"] = shape["width"] // HEAD
    sizes = {
        size: {f"model.{field}": value for field, value in shape.items()}
        for size, shape in shapes.items()
    }
    proportions = Proportions(
        warmup=0.02, least_warmup=20, validations=options.validations
    )
    return SweepSpec(
        name="size_ladder",
        base=base,
        points=derived(
            axis("size", sizes), of_tokens(proportions, options.tokens)
        ),
    )
