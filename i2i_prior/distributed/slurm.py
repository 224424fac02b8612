"""SLURM's short forms of node names and task counts, written out."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping


def expand_nodes(text: str) -> list[str]:
    """SLURM's short form to names: "n[1-3,7],gpu[01-02]-ib" -> six names."""
    names = []
    # Commas outside brackets.
    for part in re.findall(r"(?:\[[^\]]*\]|[^,\[])+", text):
        pieces = [
            _range(piece[1:-1]) if piece.startswith("[") else [piece]
            for piece in re.findall(r"\[[^\]]*\]|[^\[]+", part)
        ]
        names += ["".join(name) for name in itertools.product(*pieces)]
    return names


def _range(text: str) -> list[str]:
    """ "01-03,7" -> ["01", "02", "03", "7"]."""
    found = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        for number in range(int(first), int(last or first) + 1):
            found.append(str(number).zfill(len(first)))
    return found


def tasks_here(environ: Mapping[str, str]) -> int:
    """Of "2(x3),1" and this node's number: the tasks on this node."""
    counts = []
    for part in environ.get("SLURM_STEP_TASKS_PER_NODE", "1").split(","):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part.strip())
        if match is None:
            return 1
        counts += [int(match[1])] * int(match[2] or 1)
    node = int(environ.get("SLURM_NODEID", "0"))
    return counts[min(node, len(counts) - 1)]
