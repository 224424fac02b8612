"""How many broken records a curation puts up with."""

from __future__ import annotations

from i2i_prior.errors import UserError

_NAMED = 3  # records named in an error


class Limit:
    """Counts the broken records, and says when they are too many.

    A disk that is gone, or a folder that may not be read, fails for every
    record: without a limit it would look like a source of broken images. They
    count against the whole source, for damage comes in runs: a shard whose
    download broke off may well be the first.

    Args:
        share: greatest share of broken records, in [0, 1].
        total: records of the source.
    """

    def __init__(self, share: float, total: int) -> None:
        self._share, self._total = share, total
        self._records = self._broken = 0
        self._first: list[str] = []

    def add(self, name: str, broken: str = "") -> None:
        """Counts a record; `broken` says what is wrong with it, if so.

        Raises:
            UserError: too many of all records are broken.
        """
        self._records += 1
        self._broken += bool(broken)
        if broken and len(self._first) < _NAMED:
            self._first.append(f"{name} ({broken})")
        if self._broken <= self._share * self._total:
            return
        whole = f" of {self._total:,} in all" * (self._records < self._total)
        raise UserError(
            f"{self._broken:,} of {self._records:,} records are broken, more "
            f"than the share of {self._share:g} allowed{whole}, the first "
            f"being {', '.join(self._first)}: mend the source, or raise "
            "--max-broken"
        )
