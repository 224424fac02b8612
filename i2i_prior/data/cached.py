"""Batches of prepared latents and embeddings: nothing is decoded.

What `i2i-prior prepare` wrote, read at random. The batch of a step is a pure
function of (data set, options, step), as in `pipeline`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from i2i_prior.data.broken import MAX_SUBSTITUTES, Batch, with_substitutes
from i2i_prior.data.decode_image import BrokenImage
from i2i_prior.data.manifest import Manifest, read_manifest
from i2i_prior.data.order import Shuffled
from i2i_prior.data.pipeline import Batches
from i2i_prior.data.record import Record
from i2i_prior.data.sources.arrayrecord import ShardReader
from i2i_prior.errors import UserError


class CachedSource:
    """The examples of a prepared folder, by number.

    Attributes:
        manifest: what it says of itself.

    Args:
        folder: that holds a manifest.json of kind "latents".

    Raises:
        UserError: it is none, or not whole; see `read_manifest`.
    """

    def __init__(self, folder: str | Path) -> None:
        self.manifest: Manifest = read_manifest(folder)
        if self.manifest.kind != "latents":
            raise UserError(
                f"{folder} holds prepared {self.manifest.kind}, no latents: "
                "set data.cached=false, or prepare it with --latents."
            )
        shards = self.manifest.shards
        self._reader = ShardReader(
            {str(self.manifest.folder / s.file): s.count for s in shards}
        )

    def __len__(self) -> int:
        return self.manifest.count

    def __getitem__(self, index: int) -> Record:
        """Its name, for messages; raises OSError where it is damaged."""
        (data,) = self.read([index])
        try:
            name = self.manifest.layout.unpack(data)["name"]
        except ValueError as error:
            raise OSError(5, str(error)) from error
        return Record(name, b"")

    def fingerprint(self) -> str:
        """16 hex digits over the content."""
        return self.manifest.content_hash

    def read(self, indices: Sequence[int]) -> list[bytes]:
        """Records as they are stored; raises OSError where one is damaged."""
        return self._reader.read(indices)

    def arrays(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Arrays of records; raises BrokenImage where one is damaged."""
        try:
            return list(map(self.manifest.layout.arrays, self.read(indices)))
        except (OSError, ValueError) as error:
            raise BrokenImage(str(error)) from error


class CachedPipeline(Batches):
    """Batches of prepared examples, or one host's rows of them.

    A batch is a dict of arrays of b = len(rows) examples:
        latent: (b, h, w, c), float16 or bfloat16, see the manifest.
        embedding: (b, M, C), float16 or bfloat16.
        index: (b,) int32, the example that is shown.
        broken: (b,) int32, the damaged example that it replaces, or -1; the
            substitute is drawn, the same on every run.

    Args:
        source: the examples.
        embedding: name of one of the prepared embeddings.
        batch_size: global, over all hosts.
        seed: of order and flips.
        flip: probability of the mirrored variant; 0 where there is none.
        rows: of the global batch, in their order; None for all.
        prefetching: threads, workers and prefetch, see `Batches`.
    """

    def __init__(
        self,
        source: CachedSource,
        embedding: str,
        batch_size: int,
        *,
        seed: int = 0,
        flip: float = 0.0,
        rows: Sequence[int] | None = None,
        **prefetching: int,
    ) -> None:
        super().__init__(**prefetching)
        self._source, self._field = source, f"embedding/{embedding}"
        self._batch_size, self._seed, self._flip = batch_size, seed, flip
        self._rows = list(range(batch_size) if rows is None else rows)
        self._order = Shuffled(len(source), seed)

    def batch(self, step: int) -> Batch:
        """See `Batches`; records are read many at a time."""
        if step < 0:
            raise IndexError(f"step {step} is negative")
        start = step * self._batch_size
        numbers = [self._order[start + row] for row in self._rows]
        try:
            examples, shown = self._source.arrays(numbers), numbers
        except BrokenImage:
            examples, shown = zip(
                *map(self._readable, numbers, (start + r for r in self._rows)),
                strict=True,
            )
        # Drawn for the whole batch, so that no row depends on the hosts.
        rng = np.random.default_rng((self._seed, step, 3))
        draws = rng.random(self._batch_size)[self._rows]
        variants = (draws < self._flip).astype(int)
        fields = {"latent": "latent", "embedding": self._field}
        batch = {
            name: np.stack(
                [e[field][v] for e, v in zip(examples, variants, strict=True)]
            )
            for name, field in fields.items()
        }
        first, last = np.array(numbers, np.int32), np.array(shown, np.int32)
        broken = np.where(last == first, -1, first).astype(np.int32)
        return {**batch, "index": last, "broken": broken}

    def _readable(self, first: int, index: int) -> tuple[dict[str, Any], int]:
        """Arrays of a record or of a substitute for it, and its number."""
        made = with_substitutes(
            lambda number, rng: self._source.arrays([number])[0],
            first,
            len(self._source),
            (self._seed, index, 4),
        )
        if made is None:
            raise UserError(
                f"Example {first} of {self._source.manifest.folder} and "
                f"{MAX_SUBSTITUTES} substitutes are damaged: prepare it again."
            )
        return made
