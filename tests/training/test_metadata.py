"""Metadata of a run: sizes by module, and the lines before the first step."""

from __future__ import annotations

import jax
import numpy as np

from i2i_prior.training.metadata import collect, first_lines, module_rows


class Images:
    """Stands for a source of three images."""

    def __len__(self):
        return 3

    def fingerprint(self):
        return "feed"


def test_modules_add_up():
    array = np.zeros((2, 3))
    names = "dit/blocks/mlp/kernel", "dit/blocks/mlp/bias", "dit/scale"
    rows = module_rows(dict.fromkeys(names, array), {"encoder/cls": array})
    found = [(r.module, r.arrays, r.parameters, r.trained) for r in rows]
    assert found == [
        ("dit/blocks", 2, 12, 12),
        ("dit", 1, 6, 6),
        ("encoder", 1, 6, 0),
    ]


def test_the_first_lines_have_a_table_of_modules(tiny, programs):
    program, config = programs["one"], tiny()
    facts = collect(config, program, Images())
    arrays = jax.tree.leaves(program.abstract.params)
    assert facts["parameters"] == sum(int(np.prod(a.shape)) for a in arrays)
    assert sum(row["arrays"] for row in facts["modules"]) == len(arrays)
    lines = first_lines(config, facts, "fresh from the seed").splitlines()
    assert lines[0].startswith("tiny: 0.1M parameters")
    assert lines[-1].endswith("; fresh from the seed")
    (blocks,) = (
        row for row in facts["modules"] if row["module"] == "dit/blocks"
    )
    (line,) = (line for line in lines if "dit/blocks" in line)
    assert f"{blocks['parameters']:,}" in line
    assert len(lines) == len(facts["modules"]) + 6
