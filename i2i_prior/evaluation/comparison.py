"""The two sides of a comparison, as the metrics see them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from i2i_prior.errors import UserError
from i2i_prior.evaluation.features.extractor import Extractor
from i2i_prior.evaluation.measures.frechet import Factor, reference_factor
from i2i_prior.evaluation.sets.collect import Collected

FIRST = ""  # stands for an extractor's first tap
PUBLISHED = "FID"  # label of the published Inception weights


@dataclass
class Sides:
    """What is compared.

    Attributes:
        reference, generated: with the statistics and features that the
            metrics need, see `needs`.
        extractor: of the features of both.
        intervals: filled by the functions, by the metric's name.
    """

    reference: Collected
    generated: Collected
    extractor: Extractor
    intervals: dict[str, dict[str, Any]] = field(default_factory=dict)
    _factors: dict[str, Factor] = field(default_factory=dict)

    def factor(self, tap: str) -> Factor:
        """Of the reference, found once."""
        if tap not in self._factors:
            statistics = found_of(self.reference.statistics, tap, "statistics")
            self._factors[tap] = reference_factor(statistics)
        return self._factors[tap]

    def named(self, metric: str) -> str:
        """What a metric is called over these features."""
        label = self.extractor.label
        if label == PUBLISHED:
            return metric
        return f"{metric}-{label.removeprefix('FD-')}"

    def features(self, tap: str = FIRST) -> tuple[Any, Any]:
        """Of the reference and of the generated images."""
        tap = tap or self.extractor.first
        return (
            found_of(self.reference.features, tap, "features"),
            found_of(self.generated.features, tap, "features"),
        )

    @property
    def protocol(self) -> Mapping[str, Any]:
        """The record of the preset; empty where there is none."""
        return self.extractor.identity.get("preset") or {}


def found_of(found: Mapping[str, Any], tap: str, what: str) -> Any:
    """found[tap]; UserError with a sentence where it is not there."""
    if tap not in found:
        raise UserError(
            f"there are no {what} '{tap}' of one side, as a statistics file "
            "may lack them; give its images instead."
        )
    return found[tap]
