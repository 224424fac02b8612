"""Numbers and names of each metric in `compare`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from i2i_prior.errors import UserError
from i2i_prior.evaluation import metrics as registry
from i2i_prior.evaluation.eval_spec import EvalSpec, named_taps
from i2i_prior.evaluation.evaluate import compare
from i2i_prior.evaluation.features.extractor import Extractor
from i2i_prior.evaluation.measures.extrapolate import fd_infinity
from i2i_prior.evaluation.measures.frechet import (
    frechet_distance,
    reference_factor,
)
from i2i_prior.evaluation.measures.inception_score import inception_score
from i2i_prior.evaluation.measures.kernels import kid
from i2i_prior.evaluation.measures.neighbours import prdc, precision_recall
from i2i_prior.evaluation.measures.statistics import FeatureStatistics
from i2i_prior.evaluation.metrics import METRICS
from i2i_prior.evaluation.sets.collect import Collected, collect

DRAW = np.random.default_rng(0)
REAL = DRAW.integers(0, 200, (60, 4, 4, 3), np.uint8)
DRAWN = DRAW.integers(30, 256, (50, 4, 4, 3), np.uint8)


def features(_, images: np.ndarray) -> dict[str, np.ndarray]:
    rows = images.reshape(len(images), -1) / 255.0
    return {
        "pool3": rows[:, :5],
        "spatial": rows[:, 5:8],
        "logits_unbiased": rows[:, 8:12],
    }


# As the Inception extractor looks from outside, without its cost.
INCEPTION = Extractor(
    name="inception",
    label="FID",
    taps={"pool3": 5, "spatial": 3, "logits_unbiased": 4},
    identity={
        "weights_sha256": "ab" * 32,
        "preset": {
            "name": "adm",
            "precision_recall_k": 3,
            "inception_score": "consecutive",
        },
    },
    prepare=lambda images: images,
    apply=features,
    traced=False,
)
OTHERS = replace(INCEPTION, label="FD-inception:12345678")
ALL = ("fid", "sfid", "is", "kid", "pr", "prdc", "fd_infinity")


def sides(metrics, extractor=INCEPTION) -> tuple[Collected, Collected]:
    wanted = EvalSpec(extractor, metrics)
    return (
        collect(
            [REAL], extractor, moments=wanted.moments, keep=wanted.reference
        ),
        collect(
            [DRAWN], extractor, moments=wanted.moments, keep=wanted.generated
        ),
    )


@pytest.fixture(scope="module")
def result():
    return compare(EvalSpec(INCEPTION, ALL), *sides(ALL))


def statistics(rows: np.ndarray) -> FeatureStatistics:
    made = FeatureStatistics(rows.shape[1])
    made.update(rows)
    return made


def test_numbers_are_those_of_the_functions(result):
    real, drawn = features(None, REAL), features(None, DRAWN)
    real, drawn = (
        {tap: rows.astype(np.float32) for tap, rows in side.items()}
        for side in (real, drawn)
    )
    x, y = real["pool3"], drawn["pool3"]
    wanted = {
        "FID": frechet_distance(statistics(x), statistics(y)),
        "sFID": frechet_distance(
            statistics(real["spatial"]), statistics(drawn["spatial"])
        ),
        "IS": inception_score(drawn["logits_unbiased"])[0],
        "IS_std": inception_score(drawn["logits_unbiased"])[1],
        "KID": kid(y, x, subset_size=50)[0],
        "FID_infinity": fd_infinity(reference_factor(statistics(x)), y).value,
        "density": prdc(x, y)["density"],
        "coverage": prdc(x, y)["coverage"],
        "precision_k5": prdc(x, y)["precision"],
        **precision_recall(x, y, k=3),
    }
    for name, value in wanted.items():
        assert result["metrics"][name] == pytest.approx(value, rel=1e-6), name


def test_every_distance_has_its_interval(result):
    assert set(result["intervals"]) == {"FID", "sFID", "FID_infinity"}
    for name, interval in result["intervals"].items():
        value = result["metrics"][name]
        assert interval["low"] < value < interval["high"]
        assert interval["level"] == 0.95


def test_a_distance_with_an_interval_is_taken_once(monkeypatch):
    def never(*_):
        raise AssertionError("the whole is among the jackknife's sets")

    monkeypatch.setattr(registry, "frechet_distance", never)
    found = compare(EvalSpec(OTHERS, ("fid",)), *sides(("fid",), OTHERS))
    assert set(found["intervals"]) == set(found["metrics"])


@pytest.mark.parametrize("metrics", [("fid",), ("kid", "pr")])
def test_a_reference_without_spread_gives_no_number(metrics):
    """Checks a reference of equal images, or of a network without output."""
    same = np.broadcast_to(REAL[:1], REAL.shape)
    wanted = EvalSpec(OTHERS, metrics)
    reference, generated = (
        collect(
            *([images], OTHERS), keep=wanted.generated, moments=wanted.moments
        )
        for images in (same, DRAWN)
    )
    with pytest.raises(UserError, match="have the same features 'pool3'; look"):
        compare(wanted, reference, generated)
    compare(wanted, generated, reference)  # of a poor generator


def test_a_result_says_what_it_is_of(result):
    assert result["num_samples"] == 50
    assert result["preset"]["name"] == "adm"
    assert result["extractor"]["weights_sha256"] == "ab" * 32
    assert result["reference"]["num_images"] == 60
    assert len(result["reference"]["hash"]) == 64
    (note,) = (note for note in result["notes"] if "KID" in note)
    assert "subsets of 50 images" in note


def test_only_the_published_weights_have_the_usual_names():
    metrics = ("fid", "kid", "is", "pr")
    found = compare(EvalSpec(OTHERS, metrics), *sides(metrics, OTHERS))
    assert list(found["metrics"]) == [
        "FD-inception:12345678",
        "KID-inception:12345678",
        "KID_std-inception:12345678",
        "IS-inception:12345678",
        "IS_std-inception:12345678",
        "precision-inception:12345678",
        "recall-inception:12345678",
    ]


@pytest.mark.parametrize(
    ("model", "name"), [("ViT-L/14@336", "CMMD"), ("ViT-B/32", "CMMD-ViT-B/32")]
)
def test_cmmd_names_its_network(model, name):
    clip = replace(INCEPTION, name="clip", identity={"model": model})
    found = compare(EvalSpec(clip, ("cmmd",)), *sides(("cmmd",), clip))
    assert list(found["metrics"]) == [name]
    assert found["metrics"][name] > 0


def test_only_what_is_needed_is_collected():
    found = EvalSpec(INCEPTION, ("fid",))
    assert (found.moments, found.reference, found.generated) == (
        *(("pool3",), (), ()),
    )
    found = EvalSpec(INCEPTION, ("is", "sfid", "kid"))
    assert found.moments == ("pool3", "spatial")
    assert found.reference == ("pool3",)
    assert found.generated == ("logits_unbiased", "pool3")
    nothing = EvalSpec(INCEPTION, ())
    assert (*nothing.moments, *nothing.generated) == ()
    assert named_taps(("is", "sfid", "kid")) == ("logits_unbiased", "spatial")
    assert set(named_taps(tuple(METRICS))) == {"logits_unbiased", "spatial"}


def test_few_images_are_told_with_the_rank():
    few = collect([DRAWN[:4]], INCEPTION)
    real = collect([REAL], INCEPTION)
    found = compare(EvalSpec(INCEPTION, ("fid",)), real, few)
    assert "rank at most 3 of 5" in found["notes"][0]
    assert "FID has no interval" in found["notes"][1]
    assert found["intervals"] == {}


def test_an_unknown_count_is_passed_on():
    whole = collect([DRAWN], INCEPTION)
    told = FeatureStatistics.of_covariance(
        whole.statistics["pool3"].mean, whole.statistics["pool3"].cov
    )
    file = Collected({"pool3": told}, hash="0" * 64)
    real = collect([REAL], INCEPTION)
    found = compare(EvalSpec(INCEPTION, ("fid",)), real, file)
    exact = compare(EvalSpec(INCEPTION, ("fid",)), real, whole)
    assert found["num_samples"] is None
    assert found["metrics"]["FID"] == pytest.approx(exact["metrics"]["FID"])


def test_what_cannot_be_measured_is_refused():
    plain = replace(INCEPTION, name="colours", label="FD-colours")
    real, drawn = sides(("fid",))
    for metrics, extractor, said in (
        (("fd", "fie"), INCEPTION, "no metric 'fie'; use some of fid, fd"),
        (("fid",), plain, "of inception, not of colours"),
        (("cmmd",), INCEPTION, "of clip, not of inception"),
        (("sfid",), INCEPTION, "no statistics 'spatial' of one side"),
        (("kid",), INCEPTION, "no features 'pool3' of one side"),
    ):
        with pytest.raises(UserError, match=said):
            compare(EvalSpec(extractor, metrics), real, drawn)
    with pytest.raises(UserError, match="at least 2 images"):
        compare(
            *(EvalSpec(INCEPTION, ("fid",)), real),
            collect([DRAWN[:1]], INCEPTION),
        )
    small = collect([DRAWN[:, :2, :]], replace(INCEPTION, taps={"pool3": 5}))
    with pytest.raises(UserError, match="4 x 4, the other side of 4 x 2"):
        compare(EvalSpec(INCEPTION, ("fid",)), real, small)
