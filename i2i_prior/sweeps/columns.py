"""Rows of text as a table of columns."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def aligned(rows: Sequence[Sequence[str]], left: Collection[str]) -> list[str]:
    """Lines of a table; empty columns are left out.

    Args:
      rows: the head first, all of one length.
      left: heads of the columns of words; numbers stand to the right.
    """
    columns = [
        [
            text.ljust(width) if head in left else text.rjust(width)
            for text in (head, *cells)
        ]
        for head, *cells in zip(*rows, strict=True)
        if any(cells) and (width := max(map(len, (head, *cells))))
    ]
    return ["  ".join(line).rstrip() for line in zip(*columns, strict=True)]
