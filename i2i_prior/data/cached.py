"""Batches of prepared latents and embeddings: nothing is decoded.

What `i2i-prior prepare` wrote, read at random. The batch of a step is a pure
function of (data set, options, step), as in `pipeline`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grain
import numpy as np

from i2i_prior.data.broken import Batch
from i2i_prior.data.manifest import Manifest, read_manifest
from i2i_prior.data.order import Order, Shuffled
from i2i_prior.data.prefetch import Batches
from i2i_prior.data.record import Record
from i2i_prior.data.sources.arrayrecord import ShardReader
from i2i_prior.errors import UserError

_MAX_SUBSTITUTES = 64


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
        read = _Reader(
            source,
            Shuffled(len(source), seed),
            embedding,
            batch_size,
            seed,
            flip,
            tuple(range(batch_size) if rows is None else rows),
        )
        # By steps, not examples: records are read many at a time.
        super().__init__(
            grain.MapDataset.range(sys.maxsize).map(read), **prefetching
        )


@dataclass(frozen=True)
class _Reader:
    """Step -> batch; see `CachedPipeline`."""

    source: CachedSource
    order: Order
    embedding: str
    batch_size: int
    seed: int
    flip: float
    rows: tuple[int, ...]

    def __call__(self, step: int) -> Batch:
        start = step * self.batch_size
        numbers = [self.order[start + row] for row in self.rows]
        examples, shown = self._examples(numbers, start)
        # Drawn for the whole batch, so that no row depends on the hosts.
        rng = np.random.default_rng((self.seed, step, 3))
        draws = rng.random(self.batch_size)[list(self.rows)]
        variants = (draws < self.flip).astype(int)
        fields = {
            "latent": "latent",
            "embedding": f"embedding/{self.embedding}",
        }
        batch = {
            name: np.stack(
                [e[field][v] for e, v in zip(examples, variants, strict=True)]
            )
            for name, field in fields.items()
        }
        first, last = np.array(numbers, np.int32), np.array(shown, np.int32)
        broken = np.where(last == first, -1, first).astype(np.int32)
        return {**batch, "index": last, "broken": broken}

    def _examples(
        self, numbers: list[int], start: int
    ) -> tuple[list[dict[str, Any]], list[int]]:
        """The examples, with substitutes for damaged ones."""
        layout = self.source.manifest.layout
        try:
            stored = self.source.read(numbers)
            return [layout.arrays(data) for data in stored], numbers
        except (OSError, ValueError):
            pass
        examples, shown = [], []
        for row, number in zip(self.rows, numbers, strict=True):
            rng = np.random.default_rng((self.seed, start + row, 4))
            number, example = self._readable(number, rng)
            shown.append(number)
            examples.append(example)
        return examples, shown

    def _readable(
        self, first: int, rng: np.random.Generator
    ) -> tuple[int, dict[str, Any]]:
        """`first`, or a substitute for it, and its arrays."""
        number = first
        for _ in range(_MAX_SUBSTITUTES + 1):
            try:
                (data,) = self.source.read([number])
                return number, self.source.manifest.layout.arrays(data)
            except (OSError, ValueError):
                number = int(rng.integers(len(self.source)))
        raise UserError(
            f"Example {first} of {self.source.manifest.folder} and "
            f"{_MAX_SUBSTITUTES} substitutes are damaged: prepare it again."
        )
