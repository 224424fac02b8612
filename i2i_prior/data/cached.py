"""Batches of prepared latents and embeddings: nothing is decoded.

What `i2i-prior prepare` wrote, read at random. The batch of a step is a pure
function of (data set, options, step), as in `pipeline`.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from i2i_prior.data.broken import Batch
from i2i_prior.data.manifest import Manifest, read_manifest
from i2i_prior.data.order import Order
from i2i_prior.data.prefetch import batches_from
from i2i_prior.data.record import Record
from i2i_prior.data.shard_files import ShardReader
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


class CachedPipeline:
    """Batches, or one host's rows of them.

    A batch is a dict of arrays of b = len(rows) examples:
        latent: (b, h, w, c), float16 or bfloat16, see the manifest.
        embedding: (b, M, C), float16 or bfloat16.
        index: (b,) int32, the example that is shown.
        broken: (b,) int32, the one that should have been but is damaged, or
            -1; the one shown instead is drawn, the same on every run.

    Args:
        source: the examples.
        embedding: name of one of the prepared embeddings.
        batch_size: global, over all hosts.
        seed: of order and flips.
        flip: probability of the mirrored variant; 0 where there is none.
        threads, workers, prefetch: see `ahead.batches_from`.
        rows: of the global batch, in their order; None for all.
    """

    def __init__(
        self,
        source: CachedSource,
        embedding: str,
        batch_size: int,
        *,
        seed: int = 0,
        flip: float = 0.0,
        threads: int = 4,
        workers: int = 0,
        prefetch: int = 8,
        rows: Sequence[int] | None = None,
    ) -> None:
        self._source = source
        self._fields = {
            "latent": "latent",
            "embedding": f"embedding/{embedding}",
        }
        self._batch_size, self._seed, self._flip = batch_size, seed, flip
        self._ahead = {
            "threads": threads,
            "workers": workers,
            "prefetch": prefetch,
        }
        self._rows = list(range(batch_size) if rows is None else rows)
        self._order = Order(len(source), seed)

    def batch(self, step: int) -> Batch:
        """The batch of `step` (from 0), or its rows for this host.

        Raises:
            UserError: so much is damaged that no substitute was found.
        """
        if step < 0:
            raise IndexError(f"step {step} is negative")
        start = step * self._batch_size
        wanted = [self._order[start + row] for row in self._rows]
        examples, shown = self._examples(wanted, start)
        # Drawn for the whole batch, so that no row depends on the hosts.
        rng = np.random.default_rng((self._seed, step, 3))
        draws = rng.random(self._batch_size)[self._rows]
        variants = (draws < self._flip).astype(int)
        batch = {
            name: np.stack(
                [e[field][v] for e, v in zip(examples, variants, strict=True)]
            )
            for name, field in self._fields.items()
        }
        index, first = np.array(shown, np.int32), np.array(wanted, np.int32)
        broken = np.where(index == first, -1, first).astype(np.int32)
        return {**batch, "index": index, "broken": broken}

    def batches_from(self, step: int) -> Generator[Batch]:
        """Endless `batch(step)`, `batch(step + 1)`, ..., made ahead."""
        return batches_from(self, step, **self._ahead)

    def _examples(
        self, wanted: list[int], start: int
    ) -> tuple[list[dict[str, Any]], list[int]]:
        """The examples, with substitutes for damaged ones."""
        layout = self._source.manifest.layout
        try:
            stored = self._source.read(wanted)
            return [layout.arrays(data) for data in stored], wanted
        except (OSError, ValueError):
            pass
        examples, shown = [], []
        for row, index in zip(self._rows, wanted, strict=True):
            rng = np.random.default_rng((self._seed, start + row, 4))
            index, example = self._readable(index, rng)
            shown.append(index)
            examples.append(example)
        return examples, shown

    def _readable(
        self, first: int, rng: np.random.Generator
    ) -> tuple[int, dict[str, Any]]:
        """`first`, or a substitute for it, and its arrays."""
        index = first
        for _ in range(_MAX_SUBSTITUTES + 1):
            try:
                (data,) = self._source.read([index])
                return index, self._source.manifest.layout.arrays(data)
            except (OSError, ValueError):
                index = int(rng.integers(len(self._source)))
        raise UserError(
            f"Example {first} of {self._source.manifest.folder} and "
            f"{_MAX_SUBSTITUTES} substitutes are damaged: prepare it anew."
        )
