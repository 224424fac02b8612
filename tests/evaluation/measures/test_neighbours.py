"""Precision and its kin against torch-fidelity, prdc and small pictures."""

from __future__ import annotations

import numpy as np
import pytest

from i2i_prior.errors import UserError
from i2i_prior.evaluation.measures import distances
from i2i_prior.evaluation.measures.neighbours import prdc, precision_recall
from tests.peers.torch_fidelity import load_metric


def rows(count: int, seed: int, spread: float = 1.0) -> np.ndarray:
    return spread * np.random.default_rng(seed).normal(size=(count, 6)) + 40


@pytest.fixture(params=[1 << 22, 200], ids=["whole", "slabs"])
def slab(request, monkeypatch):
    monkeypatch.setattr(distances, "_SLAB", request.param)


@pytest.mark.usefixtures("slab")
def test_precision_and_recall_are_torch_fidelitys():
    """Checks against torch-fidelity, with the generated set as input 1."""
    peer, torch = load_metric("prc"), pytest.importorskip("torch")
    reference, generated = rows(90, 0), rows(70, 1, 0.7)
    for k in (1, 3):
        expected = peer.prc_features_to_metric(
            torch.from_numpy(generated),
            torch.from_numpy(reference),
            prc_neighborhood=k,
            verbose=False,
        )
        found = precision_recall(reference, generated, k=k)
        for name, value in found.items():
            assert value == pytest.approx(expected[name], abs=1e-6)
        assert found["precision"] > found["recall"] + 0.1


@pytest.mark.usefixtures("slab")
def test_prdc_is_the_authors_package(capsys):
    package = pytest.importorskip("prdc")
    reference, generated = rows(90, 0), rows(70, 1, 1.3)
    for k in (2, 5):
        expected = package.compute_prdc(reference, generated, nearest_k=k)
        found = prdc(reference, generated, k=k)
        assert found == pytest.approx(expected, abs=1e-12)
        assert len(set(found.values())) == 4


def test_the_edge_belongs_to_a_ball_in_one_of_them_only():
    """On a line, 0 1 2 3 against a sample at 4: at distance 1 from 3."""
    line = np.arange(4.0)[:, None]
    sample = np.array([[4.0], [50.0]])
    assert precision_recall(line, sample, k=1)["precision"] == 0.5
    assert prdc(line, sample, k=1)["precision"] == 0.0


def test_density_and_coverage_by_hand():
    line = np.array([[0.0], [2.0], [4.0], [10.0]])  # radii 2, 2, 2, 6
    samples = np.array([[1.0], [1.0], [3.0], [7.0]])
    found = prdc(line, samples, k=1)
    # balls: (-2, 2) holds 2 samples, (0, 4) 3, (2, 6) 1, (4, 16) 1
    assert found["density"] == (2 + 3 + 1 + 1) / 4
    assert found["coverage"] == 1.0
    assert found["precision"] == 1.0


def test_copies_are_inside_and_a_collapsed_set_recalls_nothing():
    """Distances of copies are 0 exactly, whatever the product rounds."""
    reference = rows(50, 0) * 1e3
    [(_, slab)] = distances.squared_distances(reference, reference)
    assert (np.diag(slab) == 0).all()
    assert (slab > 0).sum() == 50 * 49
    assert precision_recall(reference, reference.copy()) == {
        "precision": 1.0,
        "recall": 1.0,
    }
    collapsed = np.repeat(reference[:1], 50, axis=0)
    found = precision_recall(reference, collapsed)
    assert found == {"precision": 1.0, "recall": 1 / 50}
    assert prdc(reference, collapsed)["recall"] == 0.0


def test_refusals():
    good = rows(9, 0)
    for measure in (precision_recall, prdc):
        with pytest.raises(UserError, match="at least 10 images"):
            measure(good, good, k=9)
        with pytest.raises(UserError, match="do not compare"):
            measure(good, good[0])
        with pytest.raises(UserError, match="NaN"):
            measure(good, np.full((9, 6), np.inf))
