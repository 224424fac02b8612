"""Mixtures: several sources, drawn from by weight."""

from collections.abc import Sequence

import numpy as np

from i2i_prior.data.record import Record, Source, fingerprint_of, locate


class Mixture:
    """The records of all parts, one part after the other.

    A weight is a part's share of the drawn examples, whatever its size (see
    `order.Mixed`); `weights` are above 0, their sum is 1. `starts` has the
    index of each part's first record; `notes` are those of all parts (see
    `TarSource`).
    """

    def __init__(
        self, parts: Sequence[Source], weights: Sequence[float]
    ) -> None:
        self.parts = tuple(parts)
        total = sum(weights)
        self.weights = tuple(weight / total for weight in weights)
        self._ends = np.cumsum([len(part) for part in parts])
        self.starts = (0, *self._ends[:-1].tolist())
        notes = (getattr(part, "notes", ()) for part in parts)
        self.notes = [note for its in notes for note in its]

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> Record:
        part, place = locate(self._ends, index)
        return self.parts[part][place]

    def fingerprint(self) -> str:
        prints = [part.fingerprint() for part in self.parts]
        shares = [round(weight * 1e9) for weight in self.weights]
        return fingerprint_of("mix", prints, shares)
