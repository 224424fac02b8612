"""Inception Score in ADM's form and in torch-fidelity's."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from i2i_prior.errors import UserError
from i2i_prior.evaluation.measures.inception_score import inception_score
from tests.peers.torch_fidelity import load_metric


def logits(count: int = 205, classes: int = 12, seed: int = 0) -> np.ndarray:
    draw = np.random.default_rng(seed)
    return 3 * draw.normal(size=(count, classes)).astype(np.float32)


def sure(classes: list[int]) -> np.ndarray:
    """Logits that are nearly certain of these classes, of 10."""
    return 50.0 * np.eye(10)[classes]


@pytest.mark.parametrize("shuffle", [True, False])
def test_is_torch_fidelitys(shuffle):
    """205 images do not make 10 equal splits."""
    peer, torch = load_metric("isc"), pytest.importorskip("torch")
    expected = peer.isc_features_to_metric(
        torch.from_numpy(logits()), shuffle=shuffle
    )
    found = inception_score(logits(), shuffle_seed=2020 if shuffle else None)
    assert found == pytest.approx(tuple(expected.values()), rel=1e-12)


def test_adms_form():
    """exp(mean KL) over consecutive tenths, from the probabilities."""
    scores = []
    for part in np.split(logits(200).astype(np.float64), 10):
        p = np.exp(part) / np.exp(part).sum(1, keepdims=True)
        kl = (p * (np.log(p) - np.log(p.mean(0)))).sum(1)
        scores.append(np.exp(kl.mean()))
    mean, deviation = inception_score(logits(200))
    assert mean == pytest.approx(np.mean(scores), rel=1e-12)
    assert deviation == pytest.approx(np.std(scores), rel=1e-10)


def test_sure_and_even_is_the_number_of_classes():
    assert inception_score(sure([*range(10)] * 10))[0] == pytest.approx(10)
    unsure = np.zeros((100, 10))
    assert inception_score(unsure) == pytest.approx((1, 0))


def test_huge_logits_do_not_overflow():
    huge = 1e5 * sure([*range(10)] * 10)
    assert inception_score(huge)[0] == pytest.approx(10)


def test_images_sorted_by_class_are_warned_about():
    in_order = np.repeat(np.arange(10), 10)
    with pytest.warns(UserWarning, match="1.00 in the order of the images"):
        mean, _ = inception_score(sure(in_order))
    assert mean == pytest.approx(1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert inception_score(sure(in_order), shuffle_seed=2020)[0] > 5
        inception_score(logits())


def test_refusals():
    with pytest.raises(UserError, match="9 images do not make 10 splits"):
        inception_score(np.zeros((9, 4)))
    with pytest.raises(UserError, match="NaN"):
        inception_score(np.full((20, 4), np.nan))
