"""Options of a curation."""

from __future__ import annotations

from dataclasses import dataclass

from i2i_prior.data.curation.duplicates import check_distance
from i2i_prior.data.curation.embeddings import check_cosine
from i2i_prior.errors import UserError

PHASH = "phash"


@dataclass(frozen=True)
class CurateOptions:
    """Criteria for dropping records; 0, "" and () drop none.

    Attributes:
        min_side: least side in pixels.
        max_aspect: greatest longer side over shorter side.
        min_entropy: least entropy of the levels in bits, below 8.
        near_duplicates: "phash", or an .npy file of (N, D) embeddings.
        threshold: of near duplicates; bits (6) or cosine (0.95) if None.
        filters: FILE.py:function[:LEAST] each, see `load_plugin`.
        max_broken: greatest share of broken records, see `BrokenLimit`.
    """

    min_side: int = 0
    max_aspect: float = 0.0
    min_entropy: float = 0.0
    near_duplicates: str = ""
    threshold: float | None = None
    filters: tuple[str, ...] = ()
    max_broken: float = 0.01

    def __post_init__(self) -> None:
        near, threshold = self.near_duplicates, self.threshold
        wrong = {
            f"the least side is {self.min_side}: give 1 or more": (
                self.min_side < 0
            ),
            f"the greatest aspect ratio is {self.max_aspect:g}, longer over "
            "shorter side: give 1 or more": (
                self.max_aspect and not self.max_aspect >= 1
            ),
            f"the least entropy is {self.min_entropy:g} bits: give 0 to 8": (
                not 0 <= self.min_entropy < 8
            ),
            "the greatest share of broken records is "
            f"{self.max_broken:g}: give 0 to 1": not 0 <= self.max_broken <= 1,
            "a threshold is only for near duplicates: give phash or an "
            "embedding file with it": threshold is not None and not near,
        }
        for message, holds in wrong.items():
            if holds:
                raise UserError(message)
        if threshold is not None:
            (check_distance if near == PHASH else check_cosine)(threshold)

    def near_threshold(self) -> float:
        """The threshold of near duplicates, in bits or as a cosine."""
        if self.threshold is not None:
            return self.threshold
        return 6 if self.near_duplicates == PHASH else 0.95
