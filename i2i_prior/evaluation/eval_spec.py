"""Specification of an evaluation: metrics, their checks, and their needs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ml_collections import ConfigDict

from i2i_prior.errors import UserError
from i2i_prior.evaluation.comparison import FIRST
from i2i_prior.evaluation.features.extractor import Extractor
from i2i_prior.evaluation.features.registry import open_extractor
from i2i_prior.evaluation.metrics import METRICS


@dataclass(frozen=True)
class EvalSpec:
    """Metrics, and the features that they are taken over.

    UserError for an unknown metric, or one that does not exist over the
    features of this extractor.
    """

    extractor: Extractor  # of both sides
    metrics: Sequence[str]  # keys of METRICS

    def __post_init__(self) -> None:
        check_metrics(self.metrics)
        for name in self.metrics:
            only = METRICS[name].extractors
            if only and self.extractor.name not in only:
                raise UserError(
                    f"{name} is taken over the features of "
                    f"{' or '.join(only)}, not of {self.extractor.name}; give "
                    f"--features {only[0]}, or ask for fd, kid, pr or prdc."
                )

    @classmethod
    def open(
        cls,
        metrics: Sequence[str],
        features: str,
        preset: str,
        weights: str | Path | None,
    ) -> EvalSpec:
        """Opens the extractor, see `open_extractor`, with the metrics' taps."""
        check_metrics(metrics)
        taps = named_taps(metrics)
        extractor = open_extractor(features, preset, weights=weights, taps=taps)
        return cls(extractor, metrics)

    @classmethod
    def from_config(cls, config: ConfigDict) -> EvalSpec:
        """Reads the `evaluate` section and opens the extractor."""
        section = config.evaluate
        return cls.open(
            parse_metrics(section.metrics),
            section.features,
            section.preset,
            section.weights or None,
        )

    @property
    def moments(self) -> tuple[str, ...]:
        """Taps of both sides whose statistics are needed."""
        # The first tap's are cheap, and every file has them.
        of_sets = any(METRICS[name].match is None for name in self.metrics)
        taps = _taps(self.metrics, "moments")
        return self._named([FIRST, *taps] if of_sets else taps)

    @property
    def reference(self) -> tuple[str, ...]:
        """Taps of the reference whose features are needed."""
        return self._named(_taps(self.metrics, "features"))

    @property
    def generated(self) -> tuple[str, ...]:
        """Taps of the generated images whose features are needed."""
        return self._named(_taps(self.metrics, "features", "generated"))

    @property
    def captions(self) -> tuple[str, ...]:
        """Metrics that need captions of the generated images."""
        return tuple(name for name in self.metrics if METRICS[name].captions)

    @property
    def truncate(self) -> bool:
        """True where the protocol cuts grey levels off, see `Generator`."""
        protocol = self.extractor.identity.get("preset") or {}
        return protocol.get("rounding") == "truncate"

    def check_count(self, count: int) -> None:
        """Refuses too few images for a metric before any work on them."""
        dim = self.extractor.taps[self.extractor.first]
        for name in self.metrics:
            least = METRICS[name].fewest(dim)
            if count < least:
                raise UserError(
                    f"{name} of {dim} numbers an image needs at least {least} "
                    f"images, and there are {count}; give more, or ask for "
                    "other metrics."
                )

    def _named(self, taps: Iterable[str]) -> tuple[str, ...]:
        return unique(tap or self.extractor.first for tap in taps)


def named_taps(metrics: Sequence[str]) -> tuple[str, ...]:
    """Taps other than the first one that these metrics need."""
    taps = _taps(metrics, "moments", "features", "generated")
    return tuple(tap for tap in taps if tap != FIRST)


def _taps(metrics: Sequence[str], *kinds: str) -> tuple[str, ...]:
    """Taps of some metrics, in these fields of `Metric`."""
    return unique(
        tap
        for name in metrics
        for kind in kinds
        for tap in getattr(METRICS[name], kind)
    )


def parse_metrics(text: str) -> tuple[str, ...]:
    """Names of a list such as "fd,match": first those of conditions.

    UserError for a name that is no metric, or none at all.
    """
    names = unique(name.strip() for name in text.split(",") if name.strip())
    check_metrics(names)
    if not names:
        raise UserError(
            f"no metric is asked for; use some of {', '.join(METRICS)}, with "
            "commas between."
        )
    of_sets = tuple(name for name in names if METRICS[name].match is None)
    return tuple(n for n in METRICS if n in {*names} - {*of_sets}) + of_sets


def check_metrics(
    metrics: Sequence[str], known: Iterable[str] = METRICS
) -> None:
    """Refuses names that are not `known`; UserError with all that are."""
    known = tuple(known)
    for name in metrics:
        if name not in known:
            raise UserError(
                f"there is no metric '{name}'; use some of {', '.join(known)}."
            )


def unique(names: Iterable[str]) -> tuple[str, ...]:
    """Names without their repeats, in order."""
    return tuple(dict.fromkeys(names))
