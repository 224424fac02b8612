"""How many broken records a curation puts up with."""

from __future__ import annotations

from i2i_prior.errors import UserError

_MIN_SEEN = 100  # records before a share of broken ones means anything
_NAMED = 3  # records named in an error


class Limit:
    """Counts the broken records, and says when they are too many.

    A disk that is gone, or a folder that may not be read, fails for every
    record: without a limit it would look like a source of broken images.

    Args:
        share: greatest share of broken records, in [0, 1].
    """

    def __init__(self, share: float) -> None:
        self._share = share
        self._records = self._broken = 0
        self._first: list[str] = []

    def add(self, name: str, broken: str = "") -> None:
        """Counts a record; `broken` says what is wrong with it, if so."""
        self._records += 1
        self._broken += bool(broken)
        if broken and len(self._first) < _NAMED:
            self._first.append(f"{name} ({broken})")

    def check(self, least: int = _MIN_SEEN) -> None:
        """Raises UserError once too many records are broken.

        Args:
            least: records before which nothing is judged.
        """
        allowed = self._share * self._records
        if self._records < least or self._broken <= allowed:
            return
        raise UserError(
            f"{self._broken:,} of {self._records:,} records are broken, more "
            f"than the share of {self._share:g} allowed, the first being "
            f"{', '.join(self._first)}: mend the source, or raise --max-broken"
        )
