"""Expansion of SLURM's compressed node names and task counts."""

import itertools
import re
from collections.abc import Mapping


def expand_nodes(text: str) -> list[str]:
    """Expands a node list: "n[1-3,7],gpu[01-02]-ib" -> six names."""
    names = []
    # Commas outside brackets.
    for part in re.findall(r"(?:\[[^\]]*\]|[^,\[])+", text):
        pieces = [
            _expand_range(piece[1:-1]) if piece.startswith("[") else [piece]
            for piece in re.findall(r"\[[^\]]*\]|[^\[]+", part)
        ]
        names += ["".join(name) for name in itertools.product(*pieces)]
    return names


def _expand_range(text: str) -> list[str]:
    """Expands a range: "01-03,7" -> ["01", "02", "03", "7"]."""
    found = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        for number in range(int(first), int(last or first) + 1):
            found.append(str(number).zfill(len(first)))
    return found


def tasks_on_node(environ: Mapping[str, str]) -> int:
    """Returns the number of tasks on this node, from counts as "2(x3),1"."""
    counts = []
    for part in environ.get("SLURM_STEP_TASKS_PER_NODE", "1").split(","):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part.strip())
        if match is None:
            return 1
        counts += [int(match[1])] * int(match[2] or 1)
    node = int(environ.get("SLURM_NODEID", "0"))
    return counts[min(node, len(counts) - 1)]
