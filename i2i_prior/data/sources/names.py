"""Names of image files, and compact lists of millions of names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


def is_image_name(path: str) -> bool:
    """Returns True for the path of an image that is not hidden (`._x.jpg`)."""
    base = path.rpartition("/")[2]
    return base.lower().endswith(EXTENSIONS) and not base.startswith(".")


class Names:
    """Immutable list of names in two arrays: 8 bytes a name and its text.

    A list of strings would take about 60 bytes more a name, and be copied
    object by object into each worker.

    `text`, uint8, has the names one after the other, in UTF-8 (other bytes are
    kept unchanged); `ends`, int64, the end of each name in it.
    """

    def __init__(self, text: np.ndarray, ends: np.ndarray) -> None:
        self.text, self.ends = text, ends

    @classmethod
    def of(cls, names: Iterable[str]) -> Names:
        """Packs strings."""
        encoded = [name.encode("utf-8", "surrogateescape") for name in names]
        lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
        text = np.frombuffer(b"".join(encoded), np.uint8)
        return cls(text, np.cumsum(lengths))

    @classmethod
    def joined(cls, parts: Sequence[Names]) -> Names:
        """Concatenates lists."""
        starts = np.cumsum([0, *(len(part.text) for part in parts)])
        ends = [p.ends + start for p, start in zip(parts, starts, strict=False)]
        return cls(
            np.concatenate([part.text for part in parts]), np.concatenate(ends)
        )

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> str:
        end = int(self.ends[index])  # raises IndexError
        before = index % len(self.ends) - 1
        start = int(self.ends[before]) if before >= 0 else 0
        return self.text[start:end].tobytes().decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        text, start = self.text.tobytes(), 0
        for end in self.ends.tolist():
            yield text[start:end].decode("utf-8", "surrogateescape")
            start = end
