"""Which metrics there are, and what each needs of the two sides.

METRICS maps a name to its needs and its function. Over the published
Inception weights results are called by their usual names, "FID", "KID",
"precision"; over any other features the features' name is part of the
metric's: "FD-colourtexture", "KID-colourtexture".
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from i2i_prior.errors import UserError
from i2i_prior.evaluation import values
from i2i_prior.evaluation.comparison import (
    FIRST,
    Sides,
)
from i2i_prior.evaluation.features.extractor import Extractor
from i2i_prior.evaluation.measures.extrapolate import fewest_images
from i2i_prior.evaluation.sets.collect import Collected

CLIP_SCORE = "clip_score"


@dataclass(frozen=True)
class Metric:
    """A metric.

    Attributes:
        function: the numbers by name.
        moments: taps whose statistics it needs of both sides.
        both: taps whose features it needs of both sides.
        generated: taps whose features it needs of the generated side.
        only: names of the extractors that it exists for; () for all.
    """

    function: Callable[[Sides], dict[str, float]]
    moments: tuple[str, ...] = ()
    both: tuple[str, ...] = ()
    generated: tuple[str, ...] = ()
    only: tuple[str, ...] = ()


@dataclass(frozen=True)
class Needs:
    """Taps that some metrics need together, see `Metric`."""

    moments: tuple[str, ...]
    reference: tuple[str, ...]
    generated: tuple[str, ...]

    @property
    def taps(self) -> tuple[str, ...]:
        """All of them."""
        return _unique([*self.moments, *self.reference, *self.generated])


def needs(metrics: Sequence[str], extractor: Extractor) -> Needs:
    """What has to be collected for these metrics.

    Raises:
        UserError: an unknown metric, or one that does not exist over the
            features of this extractor.
    """
    check_metrics(metrics)
    for name in metrics:
        only = METRICS[name].only
        if only and extractor.name not in only:
            raise UserError(
                f"{name} is taken over the features of {' or '.join(only)}, "
                f"not of {extractor.name}; give --features {only[0]}, or ask "
                "for fd, kid, pr or prdc."
            )
    found = [METRICS[name] for name in metrics]

    def taps(which: Callable[[Metric], Iterable[str]]) -> tuple[str, ...]:
        every = [tap for metric in found for tap in which(metric)]
        return _unique([tap or extractor.first for tap in every])

    # The first tap's cost next to nothing, and every file has them.
    first = (extractor.first,) if metrics else ()
    return Needs(
        _unique([*first, *taps(lambda metric: metric.moments)]),
        taps(lambda metric: metric.both),
        taps(lambda metric: (*metric.both, *metric.generated)),
    )


def check_metrics(metrics: Sequence[str], more: Iterable[str] = ()) -> None:
    """Refuses names of no metric.

    Args:
        metrics: names.
        more: names that are right beside the keys of METRICS.

    Raises:
        UserError: names the first one, and all that there are.
    """
    known = (*METRICS, *more)
    for name in metrics:
        if name not in known:
            raise UserError(
                f"there is no metric '{name}'; use some of {', '.join(known)}."
            )


def check_count(
    metrics: Sequence[str], extractor: Extractor, count: int
) -> None:
    """Refuses too few images before any work is done on them.

    Raises:
        UserError: says how many it takes.
    """
    dim = extractor.taps[extractor.first]
    fewest = dict.fromkeys(metrics, 2)
    if "fd_infinity" in fewest:
        fewest["fd_infinity"] = fewest_images(dim)
    for name, least in fewest.items():
        if count < least:
            raise UserError(
                f"{name} of {dim} numbers an image needs at least {least} "
                f"images, and there are {count}; give more, or ask for other "
                "metrics."
            )


def named_taps(metrics: Sequence[str]) -> tuple[str, ...]:
    """The taps beside the first one that these metrics need."""
    found = [METRICS[name] for name in metrics]
    return _unique(
        tap
        for metric in found
        for tap in (*metric.moments, *metric.both, *metric.generated)
        if tap != FIRST
    )


def measure(
    reference: Collected,
    generated: Collected,
    extractor: Extractor,
    metrics: Sequence[str],
) -> dict[str, Any]:
    """Metrics of generated images, with all that a result has to say.

    Args:
        reference, generated: collected with what `needs` names.
        extractor: of the features of both.
        metrics: keys of METRICS.

    Returns:
        "metrics": numbers by name; "intervals": {"low", "high", "level",
        "method"} of the Frechet distances; "extractor": its name, label and
        identity; "preset": its record or None; "reference", "generated":
        provenance; "num_samples"; "notes": sentences about what limits the
        numbers.

    Raises:
        UserError: the sides do not compare, or a metric cannot be taken of
            them.
    """
    needs(metrics, extractor)
    check_sizes(reference.size, generated.size)
    _check_spread(reference)
    sides = Sides(reference, generated, extractor)
    numbers: dict[str, float] = {}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for name in metrics:
            numbers |= METRICS[name].function(sides)
    said = [str(w.message) for w in caught if w.category is UserWarning]
    notes = [reference.provenance.get("note"), generated.provenance.get("note")]
    missing = [
        f"{name} has no interval: the samples came as statistics, or are "
        "fewer than 20"
        for name in _distances(metrics, sides)
        if name not in sides.intervals
    ]
    return {
        "metrics": {name: float(value) for name, value in numbers.items()},
        "intervals": sides.intervals,
        "extractor": {
            "name": extractor.name,
            "label": extractor.label,
            **extractor.identity,
        },
        "preset": dict(sides.protocol) or None,
        "reference": _provenance(reference),
        "generated": _provenance(generated),
        "num_samples": generated.count,
        "notes": list(_unique([n for n in [*said, *notes, *missing] if n])),
    }


def check_sizes(
    reference: tuple[int, int] | None, generated: tuple[int, int] | None
) -> None:
    """Refuses sides of two resolutions, where both are known.

    Args:
        reference, generated: height and width of the images.

    Raises:
        UserError: names the two.
    """
    if reference and generated and reference != generated:
        (h, w), (other_h, other_w) = reference, generated
        raise UserError(
            f"the reference has images of {w} x {h}, the other side of "
            f"{other_w} x {other_h}, which do not compare; give --size N to "
            "bring both to N x N."
        )


_INCEPTION = ("inception",)

METRICS: dict[str, Metric] = {
    "fid": Metric(values.fid_of, moments=(FIRST,), only=_INCEPTION),
    "fd": Metric(values.fid_of, moments=(FIRST,)),
    "sfid": Metric(values.sfid_of, moments=("spatial",), only=_INCEPTION),
    "is": Metric(
        values.inception_score_of,
        generated=("logits_unbiased",),
        only=_INCEPTION,
    ),
    "kid": Metric(values.kid_of, both=(FIRST,)),
    "pr": Metric(values.precision_recall_of, both=(FIRST,)),
    "prdc": Metric(values.prdc_of, both=(FIRST,)),
    "fd_infinity": Metric(
        values.fd_infinity_of, moments=(FIRST,), generated=(FIRST,)
    ),
    "cmmd": Metric(values.cmmd_of, both=(FIRST,), only=("clip",)),
    CLIP_SCORE: Metric(
        values.clip_score_of, generated=(FIRST,), only=("clip",)
    ),
}


def _check_spread(reference: Collected) -> None:
    """All distances to one point would be small numbers that mean nothing."""
    for tap, found in reference.statistics.items():
        if found.count > 1 and not found.moment.any():
            raise UserError(
                f"all images of the reference have the same features '{tap}'; "
                "look at the images and at what computes the features."
            )


def _distances(metrics: Sequence[str], sides: Sides) -> list[str]:
    names = {
        "fid": sides.extractor.label,
        "fd": sides.extractor.label,
        "sfid": sides.named("sFID"),
    }
    return [names[metric] for metric in metrics if metric in names]


def _provenance(side: Collected) -> dict[str, Any]:
    return {
        **side.provenance,
        "num_images": side.count,
        "hash": side.hash,
        "size": side.size,
    }


def _unique(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))
