"""Sides of a comparison, as the functions of metrics take them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from i2i_prior.errors import UserError
from i2i_prior.evaluation.features.extractor import Extractor
from i2i_prior.evaluation.measures.frechet import Factor, reference_factor
from i2i_prior.evaluation.sets.collect import Collected

FIRST = ""  # stands for an extractor's first tap


@dataclass
class Comparison:
    """Reference, generated images, and matches of their conditions."""

    # Both with the statistics and features that the metrics need, `EvalSpec`.
    reference: Collected
    generated: Collected
    extractor: Extractor
    # By condition metric, its results of each group, see `Metric.match`.
    matches: Mapping[str, list[Any]] = field(default_factory=dict)
    _factors: dict[str, Factor] = field(default_factory=dict)

    @property
    def preset(self) -> Mapping[str, Any]:
        """Record of the extractor's preset; empty where there is none."""
        return self.extractor.identity.get("preset") or {}

    @property
    def features_name(self) -> str:
        """Name of the features in those of results."""
        return self.extractor.label.removeprefix("FD-")

    def result_name(self, metric: str) -> str:
        """Name of a result: with the features' unless these are FID's."""
        name = self.features_name
        return metric if name == "FID" else f"{metric}-{name}"

    def named(self, found: Mapping[str, float]) -> dict[str, float]:
        """Results by their `result_name`."""
        return {self.result_name(name): found[name] for name in found}

    def factor(self, tap: str) -> Factor:
        """Factor of the reference's covariance, computed once."""
        if tap not in self._factors:
            statistics = lookup(self.reference.statistics, tap, "statistics")
            self._factors[tap] = reference_factor(statistics)
        return self._factors[tap]

    def generated_features(self, tap: str = FIRST) -> Any:
        """Features (n, d) of the generated images; UserError where missing."""
        tap = tap or self.extractor.first
        return lookup(self.generated.features, tap, "features")

    def features(self) -> tuple[Any, Any]:
        """First tap's features of the reference and the generated images."""
        tap = self.extractor.first
        reference = lookup(self.reference.features, tap, "features")
        return reference, self.generated_features()


def lookup(by_tap: Mapping[str, Any], tap: str, kind: str) -> Any:
    """Statistics or features of a tap; UserError where they are missing."""
    if tap not in by_tap:
        raise UserError(
            f"there are no {kind} '{tap}' of one side, as a statistics file "
            "may lack them; give its images instead."
        )
    return by_tap[tap]
