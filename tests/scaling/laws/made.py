"""Synthetic sweeps: those of benchmarks/law_coverage.py, and as CSV."""

from __future__ import annotations

import csv
import importlib.util

from tests.conftest import ROOT

_spec = importlib.util.spec_from_file_location(
    "law_coverage", ROOT / "benchmarks" / "law_coverage.py"
)
assert _spec is not None
assert _spec.loader is not None
coverage = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(coverage)


def write_csv(
    path, points, names=("params", "tokens", "flops", "loss"), **more
):
    """Writes points; `more` are columns, a value a point."""
    attributes = {"params": "n", "tokens": "d", "flops": "c"}
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*names, *more])
        for k, point in enumerate(points):
            values = [getattr(point, attributes.get(n, n)) for n in names]
            writer.writerow([*values, *(column[k] for column in more.values())])
    return path
