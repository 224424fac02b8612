"""A table of runs: read, refused in one sentence, put into budgets."""

from __future__ import annotations

import numpy as np
import pytest

from i2i_prior.errors import UserError
from i2i_prior.scaling_laws.points import Point, column, groups, read_csv

HEAD = "params,tokens,flops,loss\n"


@pytest.fixture
def file(tmp_path):
    def write(text):
        path = tmp_path / "runs.csv"
        path.write_text(text)
        return path

    return write


def test_all_columns_are_read(file):
    table = read_csv(
        file(
            "id,params,tokens,flops,loss,role,budget,standard_error,"
            "learning_rate,epochs\n"
            "a,1e6,2e8,1.3e15,0.9,,low,0.01,1e-3,0.5\n"
            "b,2e6,4e8,5e15,0.8,holdout,high,,,\n"
        )
    )
    first, second = table.points
    assert first == Point(
        "a", 1e6, 2e8, 1.3e15, 0.9, "fit", "low", 0.01, 1e-3, 0.5
    )
    assert (second.role, second.standard_error) == ("holdout", None)
    assert table.of("holdout") == [second]
    assert table.notes == []


@pytest.mark.parametrize(
    ("head", "row", "name", "value"),
    [
        ("params,tokens,loss", "2,3,1", "c", 36),
        ("params,flops,loss", "2,36,1", "d", 3),
        ("tokens,flops,loss", "3,36,1", "n", 2),
    ],
)
def test_a_missing_column_comes_of_6nd_and_is_said(
    file, head, row, name, value
):
    table = read_csv(file(f"{head}\n{row}\n"))
    assert getattr(table.points[0], name) == value
    assert len(table.notes) == 1
    assert "6 x" in table.notes[0]


def test_counted_flops_are_never_replaced(file):
    table = read_csv(file(HEAD + "2,3,1000,1\n"))
    assert table.points[0].c == 1000


def test_a_diverged_run_is_left_out_and_named(file):
    table = read_csv(file(HEAD + "2,3,36,nan\n4,3,72,1\n5,3,90,\n"))
    assert [p.n for p in table.points] == [4]
    assert [name for name, _ in table.excluded] == ["line 2", "line 4"]
    assert "diverged" in table.excluded[0][1]
    assert table.excluded[1][1] == "no loss yet"


def test_rows_of_nothing_are_no_runs_and_lines_keep_their_numbers(file):
    table = read_csv(file(HEAD + "\n2,3,36,1\n\n , ,,\n,,,\n"))
    assert [point.id for point in table.points] == ["line 3"]
    with pytest.raises(UserError, match="line 5 of"):
        read_csv(file(HEAD + "\n2,3,36,1\n\n2,3,36,x\n"))


def test_a_sweeps_table_says_why_a_run_has_no_loss(file):
    head = "id,state,params,tokens,flops,loss\n"
    table = read_csv(file(head + "a,done,2,3,36,1\nb,running,4,3,72,\n"))
    assert table.excluded == [("b", "running")]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no column loss"),
        ("params,tokens,flops\n1,2,12\n", "no column loss"),
        ("params,loss\n1,2\n", "params of the columns"),
        ("params,params,tokens,loss\n1,1,2,3\n", "a column twice"),
        (HEAD + "1,2,12,low\n", "loss is 'low', not a number"),
        (HEAD + "1,2,12,1\n1,x,12,1\n", "line 3"),
        (HEAD + "1,,12,1\n", "tokens is ''"),
        (HEAD + "-1,2,12,1\n", "params is '-1'"),
        ("params,tokens,loss,learning_rate\n1,2,1,inf\n", "rate is 'inf'"),
        ("params,tokens,loss,standard_error\n1,2,1,-1\n", "error is '-1'"),
        (HEAD + "inf,2,12,1\n", "params is 'inf'"),
        (HEAD + "1,2,1e300,1\n", "less than 1e+100"),
        (HEAD + "1,2,12,1e-200\n", "from 1e-100"),
        (HEAD + "1,2,12,-0.5\n", "positive metric"),
        (HEAD + "1,2,12,1\n2,2,24,1\n1,2,12,1\n", "line 4 of"),
        (HEAD + "1,000,2,12,1\n", "without commas"),
        ("params,tokens,loss,role\n1,2,3,test\n", "role is 'test'"),
        ("id,params,tokens,loss\na,1,2,3\na,2,2,3\n", "repeats line 2"),
    ],
)
def test_bad_tables_get_one_sentence(file, text, words):
    with pytest.raises(UserError) as caught:
        read_csv(file(text))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_file_and_no_text_get_one_sentence(tmp_path):
    binary = tmp_path / "b.csv"
    binary.write_bytes(b"\xff\xfe\x00\x81")
    for path in (tmp_path / "none.csv", tmp_path, binary):
        with pytest.raises(UserError, match="cannot read"):
            read_csv(path)


def test_seeds_with_an_id_each_are_both_kept(file):
    table = read_csv(file("id,params,tokens,loss\na,1,2,3\nb,1,2,3\n"))
    assert len(table.points) == 2


def points_at(flops, budgets=None):
    return [
        Point(
            str(k), k + 1.0, 1.0, c, 1.0, budget=budgets[k] if budgets else None
        )
        for k, c in enumerate(flops)
    ]


def test_budgets_are_clusters_not_digits():
    # 1.5e19 and 2.4e19 have one rounded digit; 0.98 and 1.02 have not.
    flops = [1.5e19, 2.4e19, 0.98e18, 1.02e18, 1.5e19 * 1.01]
    found = [column(g, "c").tolist() for g in groups(points_at(flops))]
    assert found == [[0.98e18, 1.02e18], [1.5e19, 1.515e19], [2.4e19]]


def test_a_chain_of_near_runs_is_not_one_budget():
    found = groups(points_at(1e18 * 1.1 ** np.arange(20)))
    assert max(np.ptp(np.log(column(g, "c"))) for g in found) < np.log(1.26)


def test_declared_budgets_are_kept():
    found = groups(points_at([1e18, 1.6e18, 1.1e18], ["a", "a", "b"]))
    assert [[p.id for p in g] for g in found] == [["2"], ["0", "1"]]
