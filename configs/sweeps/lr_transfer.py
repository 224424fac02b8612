"""Widths x learning rates, with and without muP: does the best rate stay?

    i2i-prior sweep plan --config configs/sweeps/lr_transfer.py
    i2i-prior sweep submit SWEEP --config configs/sweeps/lr_transfer.py \\
        --backend local
    i2i-prior fit --runs SWEEP --out SWEEP/laws

As it stands: Tiny-ImageNet at 16 px, widths 64, 128 and 256 of heads of 32,
six rates each: half an hour on two CPU cores. An image encoder that is
trained along stays as it is: muP takes it as something of a fixed size
(`models.mup`). Expect the best rate at one place with muP, and drifting to
smaller ones with the width without.
"""

from pathlib import Path

from i2i_prior.config import load_config, parse_arg
from i2i_prior.sweeps.spec.algebra import axis, derived, listed, product
from i2i_prior.sweeps.spec.plan import SweepSpec
from i2i_prior.sweeps.spec.rules import Proportions

CONFIGS = Path(__file__).parent.parent


def get_sweep(arg=""):
    """`widths=` and `lrs=`, by plus signs; `head=` width of a head, `depth=`,
    `steps=`, `batch=`, `seeds=` how many; `kinds=mup+standard`, of which muP
    counts from the least width; `base=` config, `root=` of its images."""
    options = parse_arg(
        arg,
        base="",
        root="../shared/data/tiny_imagenet64",
        widths="64+128+256",
        lrs="1e-3+2e-3+4e-3+8e-3+1.6e-2+3.2e-2",
        head=32,
        depth=2,
        steps=200,
        batch=32,
        seeds=1,
        kinds="mup+standard",
    )
    small = f"{CONFIGS / 'tiny_imagenet16.py'}:root={options.root},patch=4"
    base = load_config(options.base or small)
    base.model.precision = "float32"
    base.model.depth = options.depth
    base.model.scan_unroll = options.depth
    base.data.batch_size = options.batch
    base.optim.schedule = "constant"
    base.train.sample_every = 0
    base.train.evaluate_every = 0
    base.train.checkpoint_keep = 1
    base.train.tensorboard = False

    numbers = listed(options.widths, int)
    widths = {
        width: {"model.width": width, "model.heads": width // options.head}
        for width in numbers
    }
    kinds = {
        kind: {"model.mup_base_width": min(numbers) * (kind == "mup")}
        for kind in listed(options.kinds)
    }
    points = product(
        axis("parametrisation", kinds, role="tune"),
        axis("width", widths),
        axis("optim.learning_rate", listed(options.lrs, float)),
        axis("seed", range(options.seeds)),
    )
    proportions = Proportions(warmup=0.1)
    return SweepSpec(
        name="lr_transfer",
        base=base,
        points=derived(points, lambda _: proportions.of(options.steps)),
    )
