"""Retrieval on sets with known results."""

from __future__ import annotations

import numpy as np
import pytest

from i2i_prior.errors import UserError
from i2i_prior.evaluation.features.colour_texture import FEATURES
from i2i_prior.evaluation.measures.conditions import condition_match

NAMES = list(FEATURES)


def pictures(count: int, seed: int = 0) -> np.ndarray:
    """Smooth random colours: 4 x 4 blocks of one colour, 16 x 16."""
    draw = np.random.default_rng(seed)
    blocks = draw.integers(0, 256, (count, 4, 4, 3), np.uint8)
    return blocks.repeat(4, axis=1).repeat(4, axis=2)


@pytest.mark.parametrize("name", NAMES)
def test_copies_match_perfectly(name):
    images = pictures(20)
    found = condition_match(images, images[:, None], FEATURES[name])
    assert found == {
        "top1": 1.0,
        "top5": 1.0,
        "chance": 1 / 20,
        "mean_rank": 1.0,
    }


def test_noisy_copies_still_match():
    images = pictures(20)
    noise = np.random.default_rng(1).normal(0, 10, images.shape)
    noisy = np.clip(images + noise, 0, 255).astype(np.uint8)
    assert condition_match(images, noisy[:, None])["top1"] > 0.9


def test_a_shift_by_one_never_matches():
    images = pictures(20)
    found = condition_match(images, np.roll(images, 1, axis=0)[:, None])
    assert found["top1"] == 0
    assert found["mean_rank"] > 3


def test_images_that_ignore_their_condition_match_by_chance():
    images = pictures(200)
    found = condition_match(images, pictures(200, seed=9)[:, None])
    assert found["top1"] <= 5 / 200
    assert found["top5"] <= 15 / 200
    assert abs(found["mean_rank"] - 100.5) < 15


def test_a_collapsed_model_is_exactly_chance():
    images = pictures(20)
    same = np.repeat(images[:1], 20, axis=0)
    found = condition_match(images, same[:, None])
    assert found["top1"] == pytest.approx(1 / 20)
    assert found["top5"] == pytest.approx(5 / 20)
    assert found["mean_rank"] == pytest.approx(10.5)


def test_twin_conditions_share_the_win():
    images = pictures(10)
    images[1] = images[0]
    found = condition_match(images, images[:, None])
    assert found["top1"] == pytest.approx(0.9)
    assert found["top5"] == 1
    assert found["mean_rank"] == pytest.approx(1.1)


def test_several_images_a_condition():
    images = pictures(10)
    half_wrong = np.stack([images, np.roll(images, 1, axis=0)], axis=1)
    found = condition_match(images, half_wrong)
    assert found["top1"] == pytest.approx(0.5)
    assert found["chance"] == pytest.approx(0.1)


def test_parts_weigh_the_same_whatever_their_size():
    """Checks that 100 large useless numbers do not hide one useful one."""
    draw = np.random.default_rng(0)
    code = draw.permutation(30).astype(float)
    calls = iter(range(10))

    class TwoParts:
        parts = (1, 100)

        def __call__(self, images):
            junk = np.random.default_rng(next(calls)).normal(size=(30, 100))
            return np.concatenate([code[:, None], 1000 * junk], axis=1)

    images = pictures(30)
    weighed = condition_match(images, images[:, None], TwoParts())["mean_rank"]
    TwoParts.parts = ()
    drowned = condition_match(images, images[:, None], TwoParts())["mean_rank"]
    assert weighed < 10 < drowned


def test_refusals():
    with pytest.raises(UserError, match="at least 2 conditions"):
        condition_match(pictures(1), pictures(1)[:, None])
    with pytest.raises(UserError, match="there are 3 and 4"):
        condition_match(pictures(3), pictures(4)[:, None])
