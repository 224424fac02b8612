"""Registry of metrics: function, needs and directions of each.

Most metrics compare the features of two sets of images; condition metrics
compare each sample with the condition that it was drawn for. A new metric is
a measure, as in `measures`, a function of a `Comparison`, and an entry in
METRICS.

Over the published Inception weights results are called by their usual names,
"FID", "KID", "precision"; over any other features the features' name is part
of the result's: "FD-colourtexture", "KID-colourtexture".
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from i2i_prior.errors import UserError
from i2i_prior.evaluation.comparison import FIRST, Comparison, lookup
from i2i_prior.evaluation.condition_matching import (
    ConditionGroup,
    encoder_fidelity,
    feature_fidelity,
)
from i2i_prior.evaluation.measures.conditions import (
    concatenate,
    condition_match,
)
from i2i_prior.evaluation.measures.extrapolate import fd_infinity, fewest_images
from i2i_prior.evaluation.measures.frechet import frechet_distance
from i2i_prior.evaluation.measures.inception_score import inception_score
from i2i_prior.evaluation.measures.intervals import block_interval
from i2i_prior.evaluation.measures.kernels import cmmd, kid
from i2i_prior.evaluation.measures.neighbours import prdc, precision_recall
from i2i_prior.evaluation.pairs import PAIR_DIRECTIONS

CAPTIONS = "captions"  # key of generated features, embedded by the same CLIP
_SHUFFLE_SEED = 2020  # of torch-fidelity
_CMMD_MODEL = "ViT-L/14@336"  # that of the published numbers
_CLIP_SCALE = 100
_SUBSET = 1000  # images of a KID subset, where there are as many

Results = dict[str, Any]  # numbers by name; `Interval`s where they are known


@dataclass(frozen=True)
class Metric:
    """Metric of the registry, with the taps that it needs."""

    function: Callable[[Comparison], Results]
    # By patterns of the results' names, as "FD*"; others have no direction.
    lower_is_better: Mapping[str, bool]
    moments: tuple[str, ...] = ()  # statistics of both sides
    features: tuple[str, ...] = ()  # of both sides
    generated: tuple[str, ...] = ()  # features of the generated side
    captions: bool = False  # of the generated images, see CAPTIONS
    extractors: tuple[str, ...] = ()  # that it exists for; () for all
    fewest: Callable[[int], int] = lambda dim: 2  # images, by the dimension
    # Of condition metrics, which compare samples with their conditions:
    # computes of a group what `function` finds in `Comparison.matches`.
    match: Callable[[ConditionGroup], Any] | None = None


def _frechet(comparison: Comparison, tap: str, name: str) -> Results:
    """Frechet distance over a tap, with its interval where it has blocks."""
    factor, side = comparison.factor(tap), comparison.generated
    generated = lookup(side.statistics, tap, "statistics")
    blocks = side.blocks.get(tap, [])
    if not blocks or min(block.count for block in blocks) < 2:
        return {name: frechet_distance(factor, generated)}
    return {name: block_interval(factor, blocks)}


def first_tap_frechet(comparison: Comparison) -> Results:
    """Frechet distance over the first tap."""
    extractor = comparison.extractor
    return _frechet(comparison, extractor.first, extractor.label)


def spatial_frechet(comparison: Comparison) -> Results:
    """Frechet distance over the spatial features (Nash et al. 2021)."""
    return _frechet(comparison, "spatial", comparison.result_name("sFID"))


def inception_score_results(comparison: Comparison) -> Results:
    """Inception Score and its deviation, in the preset's order of images."""
    logits = comparison.generated_features("logits_unbiased")
    shuffled = comparison.preset.get("inception_score") == "shuffled"
    mean, deviation = inception_score(
        logits, shuffle_seed=_SHUFFLE_SEED if shuffled else None
    )
    return comparison.named({"IS": mean, "IS_std": deviation})


def kid_results(comparison: Comparison) -> Results:
    """KID over subsets of 1000 images, or of as many as there are."""
    reference, generated = comparison.features()
    size = min(len(reference), len(generated), _SUBSET)
    if size < _SUBSET:
        warnings.warn(
            f"KID is over subsets of {size} images, for there are no {_SUBSET} "
            "on both sides",
            stacklevel=2,
        )
    mean, deviation = kid(generated, reference, subset_size=size)
    return comparison.named({"KID": mean, "KID_std": deviation})


def precision_recall_results(comparison: Comparison) -> Results:
    """Precision and recall by the preset's number of neighbours."""
    k = comparison.preset.get("precision_recall_k", 3)
    return comparison.named(precision_recall(*comparison.features(), k=k))


def prdc_results(comparison: Comparison) -> Results:
    """Density and coverage; precision and recall of k = 5 and open balls."""
    found = prdc(*comparison.features())
    for name in ("precision", "recall"):
        found[f"{name}_k5"] = found.pop(name)
    return comparison.named(found)


def fd_infinity_results(comparison: Comparison) -> Results:
    """Frechet distance of infinitely many samples."""
    factor = comparison.factor(comparison.extractor.first)
    found = fd_infinity(factor, comparison.generated_features())
    return {f"{comparison.extractor.label}_infinity": found}


def cmmd_results(comparison: Comparison) -> Results:
    """CMMD, called by the network where it is not the published one."""
    model = comparison.extractor.identity.get("model")
    name = "CMMD" if model == _CMMD_MODEL else f"CMMD-{model}"
    return {name: cmmd(*comparison.features())}


def clip_score_results(comparison: Comparison) -> Results:
    """CLIP-score of generated images and captions, by network and scale."""
    from i2i_prior.evaluation.features.vision_encoders import clip_score

    texts = comparison.generated.features.get(CAPTIONS)
    if texts is None:
        raise UserError(
            "clip_score needs the captions of the generated images, which "
            "are not known here; use `i2i-prior fid` on a SPEC that has them."
        )
    found = clip_score(comparison.generated_features(), texts, _CLIP_SCALE)
    model = comparison.extractor.identity["model"]
    return {f"CLIP-score-{model}-x{_CLIP_SCALE}": found}


def match_results(comparison: Comparison) -> Results:
    """Means of `condition_match` over the groups."""
    groups = comparison.matches["match"]
    return {
        name: float(np.mean([group[name] for group in groups]))
        for name in groups[0]
    }


def encoder_fidelity_results(comparison: Comparison) -> Results:
    """Fidelity to the conditions by the run's own encoder."""
    return concatenate(comparison.matches["fidelity"]).summary("fidelity")


def feature_fidelity_results(comparison: Comparison) -> Results:
    """Fidelity to the conditions by the features of the distances."""
    name = f"fidelity-{comparison.features_name}"
    return concatenate(comparison.matches["fidelity_features"]).summary(name)


_INCEPTION, _CLIP = ("inception",), ("clip",)
_FRECHET = {"FD*": True, "FID*": True, "CLIP-FID*": True}
_FIDELITY = {"fidelity*_cosine": False, "fidelity*_top1": False}
_PRECISION = {"precision*": False, "recall*": False}

METRICS: dict[str, Metric] = {
    "fid": Metric(
        first_tap_frechet, _FRECHET, moments=(FIRST,), extractors=_INCEPTION
    ),
    "fd": Metric(first_tap_frechet, _FRECHET, moments=(FIRST,)),
    "sfid": Metric(
        spatial_frechet,
        {"sFID*": True},
        moments=("spatial",),
        extractors=_INCEPTION,
    ),
    "is": Metric(
        inception_score_results,
        {"IS*": False},
        generated=("logits_unbiased",),
        extractors=_INCEPTION,
    ),
    "kid": Metric(kid_results, {"KID*": True}, features=(FIRST,)),
    "pr": Metric(precision_recall_results, _PRECISION, features=(FIRST,)),
    "prdc": Metric(
        prdc_results,
        {"density*": False, "coverage*": False, **_PRECISION},
        features=(FIRST,),
    ),
    "fd_infinity": Metric(
        fd_infinity_results,
        _FRECHET,
        moments=(FIRST,),
        generated=(FIRST,),
        fewest=fewest_images,
    ),
    "cmmd": Metric(
        cmmd_results, {"CMMD*": True}, features=(FIRST,), extractors=_CLIP
    ),
    "clip_score": Metric(
        clip_score_results,
        {"CLIP-score*": False},
        generated=(FIRST,),
        captions=True,
        extractors=_CLIP,
    ),
    "match": Metric(
        match_results,
        {"top1": False, "top5": False, "mean_rank": True},
        match=lambda group: condition_match(group.images, group.samples),
    ),
    "fidelity": Metric(
        encoder_fidelity_results, _FIDELITY, match=encoder_fidelity
    ),
    "fidelity_features": Metric(
        feature_fidelity_results, _FIDELITY, match=feature_fidelity
    ),
}


def lower_is_better(result: str) -> bool:
    """Direction of a result, as "FD-colourtexture"; UserError without one."""
    directions = dict(PAIR_DIRECTIONS)
    for metric in METRICS.values():
        directions |= metric.lower_is_better
    for pattern, lower in directions.items():
        if fnmatchcase(result, pattern):
            return lower
    raise UserError(
        f"it is not known whether a greater or a smaller {result} is better; "
        f"choose a metric among {', '.join(directions)}"
    )
