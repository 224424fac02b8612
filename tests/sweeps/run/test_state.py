"""Where runs stand, by their files; and how it is shown."""

from __future__ import annotations

import json
import math
import os
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from i2i_prior.errors import UserError
from i2i_prior.io import locks
from i2i_prior.sweeps import submit
from i2i_prior.sweeps.backends import Launch, write_launch
from i2i_prior.sweeps.run import events
from i2i_prior.sweeps.run.state import (
    read_progress,
    seconds_left,
    states,
    with_hints,
)
from i2i_prior.sweeps.run.store import Sweep, save_sweep
from i2i_prior.sweeps.status import as_text
from tests.sweeps import fixtures_sweeps

HERE = socket.gethostname()
SUBMIT = ("submitted", {"backend": "local", "job": "7"})
START = ("started", {"attempt": 1, "host": "other", "pid": 1})
HERE_NOW = ("started", {"attempt": 1, "host": HERE, "pid": os.getpid()})


def end(how: str, cause: str = "why") -> tuple[str, dict]:
    return "ended", {"attempt": 1, "outcome": how, "cause": cause}


HISTORIES = {
    "planned": [],
    "queued": [SUBMIT],
    "running": [SUBMIT, START],
    "retrying": [SUBMIT, START, end("crashed")],
    "failed": [SUBMIT, *[START, end("hung")] * 3],
    "mistaken": [SUBMIT, START, end("mistake")],
    "preempted": [SUBMIT, START, end("preempted", "SIGTERM")],
    "cancelled": [SUBMIT, ("cancelled", {})],
    "leaving": [SUBMIT, START, ("cancelled", {})],
    "again": [SUBMIT, *[START, end("hung")] * 3, ("retried", {})],
    "resubmitted": [*[START, end("hung")] * 3, ("retried", {}), SUBMIT],
    "dead": [SUBMIT, HERE_NOW],
}
WANTED = {
    "planned": ("planned", ""),
    "queued": ("queued", ""),
    "running": ("running", ""),
    "retrying": ("retrying", "why"),
    "failed": ("failed", "why"),
    "mistaken": ("failed", "why"),
    "preempted": ("queued", "SIGTERM"),
    "cancelled": ("cancelled", ""),
    "leaving": ("running", "cancelled, is saving"),
    "again": ("planned", ""),
    "resubmitted": ("queued", ""),
    "dead": ("stopped", f"no process on {HERE} trains it any more"),
}


@pytest.fixture
def sweep(tmp_path) -> Sweep:
    """A run of each history, and two that have ended."""
    names = [*HISTORIES, "done", "diverged"]
    made = fixtures_sweeps.make_sweep(
        tmp_path / "s", **{name: "done" for name in names}
    )
    for run in made.runs:
        for event, facts in HISTORIES.get(run.name, [SUBMIT, START]):
            events.append(made.attempts(run.id), event, **facts)
    for run in made.runs[-2:]:
        result(made, run.id, run.name)
    return made


def result(sweep: Sweep, run_id: str, outcome: str, metric=0.25) -> None:
    workdir = sweep.workdir(run_id)
    workdir.mkdir(parents=True)
    document = {
        "outcome": outcome,
        "step": 20,
        "steps": 20,
        "metrics": {"validation/ema_uniform": metric},
    }
    (workdir / "result.json").write_text(json.dumps(document))


def by_name(found) -> dict:
    return {state.run.name: state for state in found}


def test_every_state_is_told_by_files(sweep):
    found = by_name(states(sweep))
    both = {name: (one.state, one.cause) for name, one in found.items()}
    assert both == WANTED | {"done": ("done", ""), "diverged": ("diverged", "")}
    assert found["failed"].attempts == 3
    assert found["again"].attempts == 0
    assert (found["queued"].backend, found["queued"].job) == ("local", "7")
    assert found["done"].progress.metric == 0.25


def test_a_run_of_this_host_lives_as_long_as_its_lock(sweep):
    (run,) = [run for run in sweep.runs if run.name == "dead"]
    held = locks.acquire(sweep.run_lock(run.id))
    assert by_name(states(sweep))["dead"].state == "running"
    os.close(held)
    assert by_name(states(sweep))["dead"].state == "stopped"


def test_a_run_elsewhere_lives_as_long_as_it_writes(sweep):
    (run,) = [run for run in sweep.runs if run.name == "running"]
    old = time.time() - 40 * 60
    os.utime(sweep.attempts(run.id) / events.FILE, (old, old))
    assert by_name(states(sweep))["running"].state == "stopped"
    log = sweep.attempts(run.id) / "log-1.txt"
    log.touch()
    assert by_name(states(sweep))["running"].state == "running"


def test_an_engine_that_knows_nothing_of_a_run_is_believed(sweep):
    hints = {run.id: "gone" for run in sweep.runs}
    found = by_name(with_hints(states(sweep), hints))
    stopped = {name for name, one in found.items() if one.state == "stopped"}
    assert stopped == {
        *("queued", "running", "retrying", "preempted", "leaving"),
        *("resubmitted", "dead"),
    }


def test_of_a_result_with_other_steps_nothing_is_done(sweep):
    run = sweep.runs[-2]
    longer = replace(sweep, runs=[replace(run, steps=40)])
    assert states(longer)[0].state == "running"


def test_progress_is_read_from_the_end(tmp_path):
    key = "validation/ema_uniform"
    file = tmp_path / "metrics.jsonl"
    with file.open("w") as lines:
        for step in range(1, 9001):
            line = {"step": step, "time": 1.0, "loss": 1 / step}
            if step == 8500:
                line |= {key: 0.5, "examples_per_second": 100.0}
            if step == 8600:
                line |= {key: 0.75, f"{key}_standard_error": 9.0}
            lines.write(json.dumps(line) + "\n")
        lines.write('{"step": 9001, "loss": 7')
    assert file.stat().st_size > 300_000
    found = read_progress(tmp_path, key)
    assert (found.step, found.loss) == (9000, 1 / 9000)
    assert (found.metric, found.best) == (0.75, 0.5)
    assert read_progress(tmp_path / "none", key).step == 0


def metrics(sweep: Sweep, run_id: str, step: int, rate: float) -> None:
    workdir = sweep.workdir(run_id)
    workdir.mkdir(parents=True, exist_ok=True)
    line = {"step": step, "loss": 0.5, "examples_per_second": rate}
    (workdir / "metrics.jsonl").write_text(json.dumps(line) + "\n")


def test_the_time_left_is_of_all_that_is_left(tmp_path):
    names = ("running", "queued", "done")
    made = fixtures_sweeps.make_sweep(
        tmp_path / "s", **{name: "done" for name in names}
    )
    for run in made.runs[:2]:
        for event, facts in HISTORIES[run.name]:
            events.append(made.attempts(run.id), event, **facts)
    result(made, made.runs[2].id, "done")
    metrics(made, made.runs[0].id, 5, rate=4.0)
    found = states(made)
    # 15 + 20 steps of 8 images at 4 a second.
    assert found[0].seconds_left == pytest.approx(30.0)
    assert seconds_left(found) == pytest.approx(70.0)
    text = as_text(made, found, False)
    assert "41.7% of 3e+09 training FLOPs; 2.5e+07 FLOP/s, ETA 70 s" in text
    assert "best validation/ema_uniform 0.25 (done)" in text


def test_trouble_comes_first_and_the_many_are_counted(sweep, tmp_path):
    lines = as_text(sweep, states(sweep), False).splitlines()
    assert lines[0].startswith("fakes: 2 failed, 1 stopped, 1 retrying")
    column = [line.split()[1] for line in lines[4:]]
    assert column[:4] == ["failed", "failed", "stopped", "retrying"]
    assert column[-1] == "done"
    many = [f"run{i}" for i in range(60)]
    made = fixtures_sweeps.make_sweep(
        tmp_path / "m", **{name: "done" for name in many}
    )
    text = as_text(made, states(made), False)
    assert text.endswith("not listed: 60 planned (--all)")
    assert len(as_text(made, states(made), True).splitlines()) == 64


@pytest.fixture
def run(command):
    """run("status", sweep, ...) -> Ended."""
    return lambda verb, *words: command("sweep", verb, *words)


def test_status_for_people_scripts_and_browsers(run, sweep):
    ended = run("status", sweep.path, "--html", "--json")
    assert ended.code == 0
    document = json.loads(ended.out)
    assert document["counts"]["failed"] == 2
    (failed,) = [one for one in document["runs"] if one["name"] == "mistaken"]
    assert (failed["cause"], failed["steps"]) == ("why", 20)
    page = Path(ended.err.strip()).read_text()
    assert page.count("<tr>") >= 14
    assert "Why runs stand still" in page
    assert "data:image" not in page  # nothing is logged yet


def test_a_run_that_diverged_is_not_the_best(run, tmp_path):
    made = fixtures_sweeps.make_sweep(tmp_path / "s", bad="done", good="done")
    for planned, how in zip(made.runs, ("diverged", "done"), strict=True):
        result(made, planned.id, how)
        metrics(made, planned.id, 20, rate=math.nan)
    assert "ema_uniform 0.25 (good)" in run("status", made.path).out
    text = run("status", made.path, "--json").out
    bad, _ = json.loads(text, parse_constant=pytest.fail)["runs"]  # no NaN
    assert bad["examples_per_second"] is None


def test_the_page_draws_every_curve(run, sweep):
    for number, planned in enumerate(sweep.runs):
        metrics(sweep, planned.id, 5 + number % 3, 3.0)
    ended = run("status", sweep.path, "--html")
    assert ended.code == 0, ended.err
    page = (sweep.path / "status.html").read_text()
    assert page.count("data:image/png") == 1  # of the loss
    assert "14 runs; where" in page


def test_watch_ends_with_the_sweep(run, tmp_path):
    made = fixtures_sweeps.make_sweep(tmp_path / "s", one="done")
    result(made, made.runs[0].id, "done")
    ended = run("status", made.path, "--watch")
    assert (ended.code, ended.out) == (0, "fakes: 1 done\n")


def test_logs_are_of_the_last_attempt_or_the_one_asked_for(run, sweep):
    planned = sweep.runs[4]
    folder = sweep.attempts(planned.id)
    for number in (1, 2, 10):
        (folder / f"log-{number}.txt").write_text(f"a\nb\nattempt {number}\n")
    (folder / "log-11.host1.txt").write_text("another host\n")
    assert run("logs", sweep.path, planned.name).out == "a\nb\nattempt 10\n"
    ended = run("logs", sweep.path, planned.id, "--attempt=2", "--lines=1")
    assert ended.out == "attempt 2\n"
    ended = run("logs", sweep.path, planned.id, "--follow")
    assert ended.out == "a\nb\nattempt 10\n"  # it has failed: nothing comes
    ended = run("logs", sweep.path, planned.id, "--attempt", "3")
    assert ended.code == 1
    assert "has no attempt 3 yet" in ended.err


ENGINE = """
from i2i_prior.sweeps.run import events
OPTIONS = {"queue": "low", "fail": False}
def submit(sweep, runs, options, dry_run):
    print("engine", options.queue, *[run.name for run in runs])
    for run in [] if dry_run else runs:
        events.append(sweep.attempts(run.id), "submitted", backend="engine",
                      job=f"job-{run.name}")
    return 0
def poll(sweep, runs, options):
    if options.fail:
        raise OSError("the engine is asleep")
    return {run.id: "queued" for run in runs}
def cancel(sweep, runs, options):
    if options.fail:
        from i2i_prior.errors import UserError
        raise UserError("it is still asleep")
    print("engine cancels", *[run.name for run in runs])
"""


@pytest.fixture
def engine(tmp_path) -> Path:
    """A launch file of one's own."""
    file = tmp_path / "engine.py"
    file.write_text(ENGINE)
    return file


def test_submit_is_idempotent_and_remembers_its_engine(run, engine, tmp_path):
    made = fixtures_sweeps.make_sweep(
        tmp_path / "s", a1="done", a2="done", b="done"
    )
    spec = f"{engine}:queue=high"
    first = run("submit", made.path, "--backend", spec, "--only", "a*")
    assert first.out == "2 runs to engine\nengine high a1 a2\n"
    again = run("submit", made.path)
    assert again.out.endswith("left as they are: 2 queued\nengine high b\n")
    third = run("submit", made.path)
    assert third.out == "0 runs to engine; left as they are: 3 queued\n"
    cancelled = run("cancel", made.path, "a1")
    assert cancelled.out.startswith("engine cancels a1\n1 run cancelled")
    left = run("submit", made.path)
    assert left.out.startswith("0 runs to engine")
    assert "sweep retry" in left.out
    retried = run("retry", made.path, "--ids", "a1", "a1-0")
    assert retried.out == "1 run to engine again\nengine high a1\n"
    assert run("retry", made.path, "--failed").out == "no run has failed\n"


def test_a_dry_run_changes_nothing(run, engine, tmp_path):
    made = fixtures_sweeps.make_sweep(tmp_path / "s", a="done")
    before = sorted(made.path.rglob("*"))
    ended = run("submit", made.path, "--backend", engine, "--dry-run")
    assert ended.out == "1 run to engine\nengine low a\n"
    assert sorted(made.path.rglob("*")) == before


def test_files_speak_where_an_engine_does_not(run, engine, tmp_path):
    made = fixtures_sweeps.make_sweep(tmp_path / "s", a="done")
    run("submit", made.path, "--backend", f"{engine}:fail=true")
    out = run("status", made.path).out
    assert "fakes: 1 queued" in out
    assert out.endswith("only files (the engine is asleep)\n")
    ended = run("cancel", made.path)
    assert (ended.code, ended.out[:15]) == (1, "1 run cancelled")
    assert ended.err == ("error: engine did not cancel (it is still asleep)\n")
    assert "1 cancelled" in run("status", made.path).out


def test_a_launch_file_is_found_from_everywhere(
    run, engine, tmp_path, monkeypatch
):
    made = fixtures_sweeps.make_sweep(tmp_path / "s", a="done", b="done")
    monkeypatch.chdir(tmp_path)
    run("submit", made.path, "--backend", "engine.py:queue=high", "--only=a")
    monkeypatch.chdir(made.path)
    assert run("submit", ".").out.endswith("engine high b\n")


def test_a_run_whose_directory_was_removed_is_run_again(run, engine, tmp_path):
    made = fixtures_sweeps.make_sweep(tmp_path / "s", a="done")
    (only,) = made.runs
    events.append(made.attempts(only.id), *START[:1], **START[1])
    events.append(made.attempts(only.id), "ended", **end("done")[1])
    made.workdir(only.id).mkdir(parents=True)
    assert states(made)[0].state == "done"
    made.workdir(only.id).rmdir()
    assert "its run directory was removed" in run("status", made.path).out
    again = run("submit", made.path, "--backend", engine)
    assert again.out == "1 run to engine\nengine low a\n"


def test_a_folder_that_cannot_be_written_is_said(run, engine, tmp_path):
    made = fixtures_sweeps.make_sweep(tmp_path / "s", a="done")
    (made.path / "attempts").symlink_to(tmp_path / "not mounted")
    (made.path / "status.html").mkdir()
    for words in ("cancel",), ("status", "--html"):
        ended = run(words[0], made.path, *words[1:])
        assert ended.code == 1
        assert ended.err.startswith(f"error: cannot write {made.path}")
        assert ended.err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("submit", "SWEEP"), "was never submitted; name a backend, as"),
        (("submit", "SWEEP", "--backend=no"), "no launch file"),
        (
            ("submit", "SWEEP", f"--backend={fixtures_sweeps.__file__}"),
            "no launch file",
        ),
        (("submit", "SWEEP", "--backend=local:slot=2"), "'slot' is unknown"),
        (
            ("submit", "SWEEP", "--backend=local", "--only=x"),
            "no run is named like 'x'",
        ),
        (
            ("submit", "SWEEP", "--backend=local", "--max-attempts=0"),
            "--max-attempts 0 and",
        ),
        (("status", "SWEEP/runs"), "is no sweep; make one with"),
        (("logs", "SWEEP", "planned"), "has no log yet"),
        (("retry", "SWEEP", "--ids", "diverged"), "diverged, and would again"),
        (("retry", "SWEEP", "--ids", "done"), "is done; retry is for"),
        (("cancel", "SWEEP", "zz"), "no run whose id begins with 'zz'"),
    ],
)
def test_mistakes_are_told_in_a_sentence(run, sweep, words, said):
    verb, *rest = (word.replace("SWEEP", str(sweep.path)) for word in words)
    before = sorted(sweep.path.rglob("*"))
    ended = run(verb, *rest)
    assert ended.code == 1
    assert ended.err.startswith("error: ")
    assert ended.err.count("\n") == 1
    assert said in ended.err
    assert sorted(sweep.path.rglob("*")) == before


def test_engines_and_limits_are_remembered_together(tmp_path):
    made = fixtures_sweeps.make_sweep(tmp_path / "s", a="done")
    write_launch(made, Launch({"local": "local"}, "local", 5, 2.0))
    assert submit.read_launch(made).max_attempts == 5
    for text in ('{"engines": 1}', "[]", "{", '{"hang_minutes": "x"}'):
        (made.path / "launch.json").write_text(text)
        with pytest.raises(UserError, match="remove it and submit again"):
            states(made)


def test_a_thousand_runs_are_told_at_once(tmp_path):
    """2 s is the aim on a quiet machine; the limit here is for a busy one."""
    sweep = thousand(tmp_path / "s")
    begin = time.monotonic()
    text = subprocess.run(
        [sys.executable, "-m", "i2i_prior.cli", "sweep", "status", sweep.path],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    ).stdout
    assert time.monotonic() - begin < 10
    assert "25 failed, 25 running, 250 planned, 700 done" in text
    modules = "import sys, i2i_prior.cli" + "".join(
        f", i2i_prior.sweeps.{name}"
        for name in ("run.attempt", "status_page", "submit")
    )
    check = f"{modules}; assert not {{'jax', 'scipy'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True)


def thousand(path: Path) -> Sweep:
    """A sweep in the middle: logs of 100 lines, results of those done."""
    runs = [fixtures_sweeps.planned(f"run{i}-{i:08x}", i) for i in range(1000)]
    sweep = Sweep(path, fixtures_sweeps.facts(), runs)
    save_sweep(sweep)
    lines = "".join(
        json.dumps({"step": i, "loss": 0.5, "examples_per_second": 10.0}) + "\n"
        for i in range(1, 101)
    )
    for place, planned in enumerate(runs[:750]):
        folder = sweep.attempts(planned.id)
        events.append(folder, *SUBMIT[:1], **SUBMIT[1])
        events.append(folder, "started", **START[1])
        if place < 700:
            result(sweep, planned.id, "done")
            events.append(folder, "ended", **end("done")[1])
        elif place < 725:
            events.append(folder, "ended", **end("mistake")[1])
        workdir = sweep.workdir(planned.id)
        workdir.mkdir(parents=True, exist_ok=True)
        (workdir / "metrics.jsonl").write_text(lines)
    return sweep
