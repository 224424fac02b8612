"""Options of a curation."""

from __future__ import annotations

from dataclasses import dataclass

from i2i_prior.data.curation.duplicates import check_distance
from i2i_prior.data.curation.embeddings import check_cosine
from i2i_prior.errors import UserError

PHASH = "phash"


@dataclass(frozen=True)
class CurateOptions:
    """Criteria for dropping records; 0, "" and () drop none."""

    min_side: int = 0  # least side in pixels
    max_aspect: float = 0.0  # greatest longer side over shorter side
    min_entropy: float = 0.0  # of the levels in bits, below 8
    near_duplicates: str = ""  # "phash", or an .npy of (N, D) embeddings
    threshold: float | None = None  # 6 bits or a cosine of 0.95 if None
    filters: tuple[str, ...] = ()  # FILE.py:function[:LEAST], `load_plugin`
    max_broken: float = 0.01  # greatest share, see `BrokenLimit`

    def __post_init__(self) -> None:
        if self.min_side < 0:
            raise UserError(
                f"the least side is {self.min_side}: give 1 or more"
            )
        if self.max_aspect and not self.max_aspect >= 1:
            raise UserError(
                f"the greatest aspect ratio is {self.max_aspect:g}, longer "
                "over shorter side: give 1 or more"
            )
        if not 0 <= self.min_entropy < 8:
            raise UserError(
                f"the least entropy is {self.min_entropy:g} bits: give 0 to 8"
            )
        if not 0 <= self.max_broken <= 1:
            raise UserError(
                f"the greatest share of broken records is {self.max_broken:g}: "
                "give 0 to 1"
            )
        if self.threshold is not None and not self.near_duplicates:
            raise UserError(
                "a threshold is only for near duplicates: give phash or an "
                "embedding file with it"
            )
        if self.threshold is not None:
            hashed = self.near_duplicates == PHASH
            (check_distance if hashed else check_cosine)(self.threshold)

    def near_threshold(self) -> float:
        """The threshold of near duplicates, in bits or as a cosine."""
        if self.threshold is not None:
            return self.threshold
        return 6 if self.near_duplicates == PHASH else 0.95
