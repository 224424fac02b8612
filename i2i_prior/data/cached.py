"""Batches of prepared latents and embeddings: nothing is decoded.

What `i2i-prior prepare` wrote, read at random. The batch of a step is a pure
function of (data set, options, step), as in `pipeline`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from i2i_prior.data.broken import Batch
from i2i_prior.data.decode_image import BrokenImage
from i2i_prior.data.manifest import Manifest, read_manifest
from i2i_prior.data.order import Shuffled
from i2i_prior.data.pipeline import MAX_SUBSTITUTES, Batches
from i2i_prior.data.record import Record
from i2i_prior.data.sources.arrayrecord import ShardReader
from i2i_prior.errors import UserError


class CachedSource:
    """The examples of a prepared folder, by number; UserError if its `manifest`
    is not of "latents", or it is not whole (see `read_manifest`)."""

    def __init__(self, folder: str | Path) -> None:
        self.manifest: Manifest = read_manifest(folder)
        if self.manifest.kind != "latents":
            raise UserError(
                f"{folder} holds prepared {self.manifest.kind}, no latents: "
                "set data.cached=false, or prepare it with --latents."
            )
        self._reader = ShardReader(self.manifest.counts)

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
        embedding: name of one of the prepared embeddings.
        flip: probability of the mirrored variant; 0 where there is none.
        prefetching: threads, workers and prefetch; see `Batches`.
    """

    _stream = (4,)

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
        order = Shuffled(len(source), seed)
        super().__init__(source, order, seed, batch_size, rows, **prefetching)
        self._field, self._flip = f"embedding/{embedding}", flip

    def _examples(
        self, step: int, indices: list[int], records: list[int]
    ) -> tuple[list[Batch], list[int]]:
        try:  # many at a time
            found, shown = self._source.arrays(records), records
        except BrokenImage:
            found, shown = super()._examples(step, indices, records)
        # Drawn for the whole batch, so that no row depends on the hosts.
        rng = np.random.default_rng((self._seed, step, 3))
        draws = rng.random(self._batch_size)[self._rows]
        variants = (draws < self._flip).astype(int)
        examples = [
            {"latent": each["latent"][v], "embedding": each[self._field][v]}
            for each, v in zip(found, variants, strict=True)
        ]
        return examples, shown

    def _example(
        self, step: int, index: int, record: int, rng: np.random.Generator
    ) -> Batch:
        return self._source.arrays([record])[0]

    def _hopeless(self, first: int) -> str:
        return (
            f"Example {first} of {self._source.manifest.folder} and "
            f"{MAX_SUBSTITUTES} substitutes are damaged: prepare it again."
        )
