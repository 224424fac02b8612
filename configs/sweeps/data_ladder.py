"""One model on ever more images: when does data end to be scarce?

    i2i-prior sweep plan --config configs/sweeps/data_ladder.py
    i2i-prior sweep submit SWEEP --config configs/sweeps/data_ladder.py \\
        --backend local

As it stands: 1,250 to 20,000 photographs of Tiny-ImageNet, each seen as often
as equal steps ask for; the plan's column of epochs says how often. The
subsets are nested (`SPEC#sample=N`), drawn once and for all. On a set of 200
million images:

    ...data_ladder.py:base=configs/lumos_xl2.py,source=tar:/data/*.tar,\\
images=1e7+5e7+2e8,steps=195312,batch=1024 \\
        --config.validation.source=tar:/held_out/*.tar \\
        --config.encoder.weights=dino_vitbase16_pretrain.pth \\
        --config.autoencoder.weights=sd-vae-ft-mse
"""

from pathlib import Path

from i2i_prior.config import load_config, parse_arg
from i2i_prior.sweeps.spec.algebra import axis, derived, listed
from i2i_prior.sweeps.spec.plan import SweepSpec
from i2i_prior.sweeps.spec.rules import Proportions

CONFIGS = Path(__file__).parent.parent


def get_sweep(arg=""):
    """`images=` of the subsets, by plus signs; `source=` SPEC that they are
    of, else the base config's; `steps=`, `batch=`, `validations=` of each
    run; `base=` config, `root=` of the images of the default one."""
    options = parse_arg(
        arg,
        base="",
        root="../shared/data/tiny_imagenet64",
        source="",
        images="1250+2500+5000+10000+20000",
        steps=3000,
        batch=32,
        validations=6,
    )
    tiny = f"{CONFIGS / 'tiny_imagenet64.py'}:root={options.root}"
    base = load_config(options.base or tiny)
    base.data.batch_size = options.batch
    base.train.sample_every = 0
    base.train.evaluate_every = 0
    source = options.source or base.data.source
    mark = "," if "#" in source else "#"
    counts = [int(count) for count in listed(options.images, float)]
    subsets = axis(
        "images",
        {
            count: {"data.source": f"{source}{mark}sample={count}"}
            for count in counts
        },
    )
    proportions = Proportions(validations=options.validations)
    return SweepSpec(
        name="data_ladder",
        base=base,
        points=derived(subsets, lambda _: proportions.of(options.steps)),
    )
