"""Specification of an evaluation: metrics, their checks, and their needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from ml_collections import ConfigDict

from i2i_prior.errors import UserError
from i2i_prior.evaluation.comparison import FIRST
from i2i_prior.evaluation.features.extractor import Extractor
from i2i_prior.evaluation.features.registry import open_extractor
from i2i_prior.evaluation.metrics import METRICS, Metric


@dataclass(frozen=True)
class EvalSpec:
    """Metrics and features of an evaluation.

    Attributes:
      extractor: of the features that samples and reference are compared by.
      metrics: keys of METRICS, see `parse_metrics`.
    """

    extractor: Extractor
    metrics: tuple[str, ...]

    @classmethod
    def from_config(cls, config: ConfigDict) -> EvalSpec:
        """Reads the `evaluate` section and opens the extractor.

        Raises:
          UserError: for an unknown metric, or features that are not there.
        """
        section = config.evaluate
        metrics = parse_metrics(section.metrics)
        extractor = open_extractor(
            section.features,
            section.preset,
            weights=section.weights or None,
            taps=named_taps(metrics),
        )
        needs(metrics, extractor)  # refuses those that do not exist over it
        return cls(extractor, metrics)

    @property
    def needs(self) -> Needs:
        """Taps that the metrics need."""
        return needs(self.metrics, self.extractor)

    @property
    def truncate(self) -> bool:
        """True where the protocol cuts grey levels off, see `Generator`."""
        protocol = self.extractor.identity.get("preset") or {}
        return protocol.get("rounding") == "truncate"


def parse_metrics(text: str) -> tuple[str, ...]:
    """Names of a list such as "fd,match": first those of conditions.

    Raises:
      UserError: for a name that is no metric, or none at all.
    """
    names = unique(name.strip() for name in text.split(",") if name.strip())
    check_metrics(names)
    if not names:
        raise UserError(
            f"no metric is asked for; use some of {', '.join(METRICS)}, with "
            "commas between."
        )
    of_sets = tuple(n for n in names if not METRICS[n].of_condition)
    return tuple(n for n in METRICS if n in {*names} - {*of_sets}) + of_sets


@dataclass(frozen=True)
class Needs:
    """Taps that some metrics need together, and metrics with captions."""

    moments: tuple[str, ...]
    reference: tuple[str, ...]
    generated: tuple[str, ...]
    captions: tuple[str, ...] = ()

    @property
    def taps(self) -> tuple[str, ...]:
        """Taps of all kinds."""
        return unique([*self.moments, *self.reference, *self.generated])


def needs(metrics: Sequence[str], extractor: Extractor) -> Needs:
    """Collects the needs of metrics.

    Raises:
        UserError: an unknown metric, or one that does not exist over the
            features of this extractor.
    """
    check_metrics(metrics)
    found = [METRICS[name] for name in metrics]
    for name, metric in zip(metrics, found, strict=True):
        only = metric.extractors
        if only and extractor.name not in only:
            raise UserError(
                f"{name} is taken over the features of {' or '.join(only)}, "
                f"not of {extractor.name}; give --features {only[0]}, or ask "
                "for fd, kid, pr or prdc."
            )

    def taps(of: Callable[[Metric], Iterable[str]]) -> tuple[str, ...]:
        every = (tap for metric in found for tap in of(metric))
        return unique(tap or extractor.first for tap in every)

    # The first tap's are cheap, and every file has them.
    of_sets = any(not metric.of_condition for metric in found)
    first = (extractor.first,) if of_sets else ()
    return Needs(
        unique([*first, *taps(lambda metric: metric.moments)]),
        taps(lambda metric: metric.features),
        taps(lambda metric: (*metric.features, *metric.generated)),
        tuple(name for name in metrics if METRICS[name].captions),
    )


def named_taps(metrics: Sequence[str]) -> tuple[str, ...]:
    """Taps other than the first one that these metrics need."""
    found = [METRICS[name] for name in metrics]
    taps = (
        tap
        for metric in found
        for tap in (*metric.moments, *metric.features, *metric.generated)
    )
    return unique(tap for tap in taps if tap != FIRST)


def check_metrics(
    metrics: Sequence[str], known: Iterable[str] = METRICS
) -> None:
    """Refuses names that are not `known`.

    Raises:
        UserError: names the first one, and all that are known.
    """
    known = tuple(known)
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
        UserError: names the metric and the images that it needs.
    """
    dim = extractor.taps[extractor.first]
    for name in metrics:
        least = METRICS[name].fewest(dim)
        if count < least:
            raise UserError(
                f"{name} of {dim} numbers an image needs at least {least} "
                f"images, and there are {count}; give more, or ask for other "
                "metrics."
            )


def unique(names: Iterable[str]) -> tuple[str, ...]:
    """Names without their repeats, in order."""
    return tuple(dict.fromkeys(names))
