"""A config checked against itself, before anything is built."""

from __future__ import annotations

import pytest

from i2i_prior.errors import UserError
from i2i_prior.training.validate import validate


@pytest.mark.parametrize("devices", [1, 2, 4, 8])
def test_a_good_config_passes(tiny, devices):
    validate(tiny(), devices)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        # choices
        (["data.crop=top"], "data.crop is 'top'; choose random or center"),
        (["encoder.kind=best"], "encoder.kind is 'best'; choose joint or"),
        (["optim.schedule=step"], "constant or cosine or linear"),
        (["diffusion.path=sde"], "ddpm_linear"),
        (["diffusion.prediction=noise"], "velocity"),
        (["sample.solver=rk45"], "dpmpp_2m"),
        (["evaluate.features=magic", "train.evaluate_every=2"], "thumbnails"),
        # ranges
        (["model.depth=0"], "model.depth is 0; it must be 1 or more"),
        (["train.steps=-5"], "train.steps is -5"),
        (["data.flip=1.5"], "data.flip is 1.5; it must be 0 to 1"),
        (["sample.guidance_low=-0.1"], "sample.guidance_low is -0.1"),
        (["train.sample_every=-1"], "train.sample_every is -1"),
        (["train.ema_decay=1.5"], "train.ema_decay is 1.5"),
        (["optim.warmup_steps=-1"], "optim.warmup_steps is -1"),
        (["optim.learning_rate=-1e-4"], "optim.learning_rate is -0.0001"),
        (["optim.beta2=1.0"], "optim.beta2 is 1.0"),
        (["evaluate.num_samples=1"], "evaluate.num_samples is 1"),
        (["evaluate.per_condition=3"], "evaluate.per_condition 3; choose"),
        (["evaluate.metrics=fd,magic"], "no metric 'magic'"),
        (["evaluate.metrics="], "no metric is asked for"),
        (["evaluate.preset=tf"], "evaluate.preset is 'tf'; choose adm"),
        (["evaluate.best_metric=top1"], "set train.evaluate_every"),
        (["evaluate.best_metric=chance"], "smaller chance is better"),
        (["train.sample_every=5", "sample.variations=0"], "variations is 0"),
        # batch
        (["train.accumulate=3"], "8 does not split into train.accumulate 3"),
        (["data.batch_size=6"], "over 4 data-parallel devices; choose a mul"),
        (["train.accumulate=4"], "choose a multiple of 16"),
        # mesh
        (["mesh.fsdp=1", "mesh.tensor=4"], "does not divide model.heads 2"),
        (["mesh.fsdp=2", "mesh.context=2", "model.patch=8"], "1 tokens of"),
        # condition
        (["conditioner.expand=1"], "one condition token makes cross-attention"),
        (["model.one_token=true"], "the conditioner makes 2 tokens"),
        (
            [
                "conditioner.expand=1",
                "model.one_token=true",
                "conditioner.mask_rate=0.5",
            ],
            "mask_rate needs more than one condition token",
        ),
        (["encoder.kind=frozen"], "frozen encoder needs encoder.weights"),
        (["diffusion.learn_sigma=true"], "learn_sigma needs a DDPM path"),
    ],
)
def test_mistakes(tiny, overrides, said):
    with pytest.raises(UserError) as error:
        validate(tiny(*overrides), 4)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "overrides",
    [
        ["conditioner.expand=1", "model.one_token=true"],
        ["conditioner.expand=1", "conditioner.tokens_from=pyramid"],
        ["encoder.kind=frozen", "encoder.weights=random"],
        ["diffusion.path=ddpm_linear", "diffusion.learn_sigma=true"],
        ["train.accumulate=2"],
        ["mesh.fsdp=2", "mesh.tensor=2", "train.accumulate=4"],
        ["sample.solver=euler", "sample.guidance=1"],
        ["train.ema_decay=0"],
        ["optim.clip_norm=0"],
    ],
)
def test_what_is_allowed(tiny, overrides):
    validate(tiny(*overrides), 4)


def test_a_value_of_another_type_put_there_by_force(tiny):
    config = tiny()
    with config.ignore_type():
        config.model.heads = "many"
    with pytest.raises(
        UserError, match=r"model\.heads takes an integer, not 'many'"
    ):
        validate(config, 4)
