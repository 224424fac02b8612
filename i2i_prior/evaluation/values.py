"""The metrics' numbers of the two sides, by the names that results have."""

from __future__ import annotations

import warnings
from dataclasses import asdict

from i2i_prior.errors import UserError
from i2i_prior.evaluation.comparison import (
    Sides,
    found_of,
)
from i2i_prior.evaluation.measures.extrapolate import fd_infinity
from i2i_prior.evaluation.measures.frechet import frechet_distance
from i2i_prior.evaluation.measures.inception_score import inception_score
from i2i_prior.evaluation.measures.intervals import block_interval, student
from i2i_prior.evaluation.measures.kernels import cmmd, kid
from i2i_prior.evaluation.measures.neighbours import prdc, precision_recall

CAPTIONS = "captions"  # among generated features, embedded by the same CLIP
_SHUFFLE_SEED = 2020  # of torch-fidelity
_LEVEL = 0.95  # of the intervals
_CMMD_MODEL = "ViT-L/14@336"  # that of the published numbers
_SUBSET = 1000  # images of a KID subset, where there are as many


def _distance(sides: Sides, tap: str, name: str) -> dict[str, float]:
    factor = sides.factor(tap)
    generated = found_of(sides.generated.statistics, tap, "statistics")
    blocks = sides.generated.blocks.get(tap, [])
    if not blocks or min(block.count for block in blocks) < 2:
        return {name: frechet_distance(factor, generated)}
    interval = asdict(block_interval(factor, blocks))
    value = interval.pop("value")
    sides.intervals[name] = interval
    return {name: value}


def fid_of(sides: Sides) -> dict[str, float]:
    """The Frechet distance over the first tap."""
    return _distance(sides, sides.extractor.first, sides.extractor.label)


def sfid_of(sides: Sides) -> dict[str, float]:
    """That over the spatial features (Nash et al. 2021)."""
    return _distance(sides, "spatial", sides.named("sFID"))


def inception_score_of(sides: Sides) -> dict[str, float]:
    """Of the generated images, by the preset's order, and its deviation."""
    logits = found_of(sides.generated.features, "logits_unbiased", "features")
    shuffled = sides.protocol.get("inception_score") == "shuffled"
    mean, deviation = inception_score(
        logits, shuffle_seed=_SHUFFLE_SEED if shuffled else None
    )
    return {sides.named("IS"): mean, sides.named("IS_std"): deviation}


def kid_of(sides: Sides) -> dict[str, float]:
    """Over subsets of 1000 images, or of as many as there are."""
    x, y = sides.features()
    size = min(len(x), len(y), _SUBSET)
    if size < _SUBSET:
        warnings.warn(
            f"KID is over subsets of {size} images, for there are no {_SUBSET} "
            "on both sides",
            stacklevel=2,
        )
    mean, deviation = kid(y, x, subset_size=size)
    return {sides.named("KID"): mean, sides.named("KID_std"): deviation}


def precision_recall_of(sides: Sides) -> dict[str, float]:
    """Both, by the preset's number of neighbours."""
    k = sides.protocol.get("precision_recall_k", 3)
    found = precision_recall(*sides.features(), k=k)
    return {sides.named(name): value for name, value in found.items()}


def prdc_of(sides: Sides) -> dict[str, float]:
    """Density and coverage, and its own precision and recall."""
    # Its precision and recall are over k = 5 and open balls: others.
    found = prdc(*sides.features())
    return {sides.named(n): found[n] for n in ("density", "coverage")} | {
        sides.named(f"{n}_k5"): found[n] for n in ("precision", "recall")
    }


def fd_infinity_of(sides: Sides) -> dict[str, float]:
    """The Frechet distance of infinitely many samples, and its interval."""
    tap = sides.extractor.first
    features = found_of(sides.generated.features, tap, "features")
    found = fd_infinity(sides.factor(tap), features)
    name = f"{sides.extractor.label}_infinity"
    freedom = len(found["sizes"]) - 2  # points less the line's two numbers
    half = student(_LEVEL, freedom) * found["standard_error"]
    sides.intervals[name] = {
        "low": found["value"] - half,
        "high": found["value"] + half,
        "level": _LEVEL,
        "method": f"line in 1 / n through {len(found['sizes'])} prefixes",
    }
    return {name: found["value"]}


def cmmd_of(sides: Sides) -> dict[str, float]:
    """CMMD; with the network's name where it is not the published one's."""
    model = sides.extractor.identity.get("model")
    plain = model == _CMMD_MODEL
    return {"CMMD" if plain else f"CMMD-{model}": cmmd(*sides.features())}


def clip_score_of(sides: Sides) -> dict[str, float]:
    """Of the generated images and their captions, by network and scale."""
    from i2i_prior.evaluation.features.vision_encoders import clip_score

    texts = sides.generated.features.get(CAPTIONS)
    if texts is None:
        raise UserError(
            "clip_score needs the captions of the generated images, which "
            "are not known here; use `i2i-prior fid` on a SPEC that has them."
        )
    tap = sides.extractor.first
    images = found_of(sides.generated.features, tap, "features")
    found = clip_score(images, texts, sides.extractor.identity["model"])
    name = f"CLIP-score-{found['model']}-x{found['scale']:g}"
    return {name: found["value"]}
