"""Sweep with a fake trainer, without JAX, whose ends a test chooses.

As a program it is `i2i-prior` with that trainer:
    python tests/sweeps/fixtures_sweeps.py sweep submit SWEEP --backend local
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from i2i_prior.sweeps.run.store import PlannedRun, Sweep, save_sweep

STEPS = 20
# Writes metrics and logs, then ends as its attempt's word in the plan says.
TRAINER = r"""
import json, os, signal, sys, time, traceback
from pathlib import Path
run, sweep = Path(sys.argv[sys.argv.index("--workdir") + 1]), Path(sys.argv[1])
words = json.loads((sweep / "words" / run.name).read_text())
run.mkdir(parents=True, exist_ok=True)
count = len(list(run.glob("start-*")))
(run / f"start-{count}").write_text(os.getcwd())
word = words[min(count, len(words) - 1)]
def log(step):
    line = {"step": step, "time": time.time(), "loss": 1 / step,
            "examples_per_second": 64.0}
    if step % 5 == 0:
        line["validation/ema_uniform"] = 2 / step
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
def end(outcome, code):
    log(20)
    (run / "result.json").write_text(json.dumps({
        "outcome": outcome, "step": 20, "steps": 20,
        "config_hash": os.environ.get("FAKE_HASH", ""),
        "metrics": {"validation/ema_uniform": 0.1}}))
    sys.exit(code)
log(5)
print("step 5/20  loss 0.2", flush=True)
if word == "done":
    end("done", 0)
if word == "diverged":
    print("error: the loss is not finite at step 7; lower it", file=sys.stderr)
    end("diverged", 65)
if word == "mistake":
    print("error: \x1b[31mthere is no folder /data\x1b[0m", file=sys.stderr)
    sys.exit(1)
if word == "full":
    print("error: no space left in /data", file=sys.stderr)
    sys.exit(74)
if word == "crash":
    try:
        raise RuntimeError("the driver is gone\nand more")
    except RuntimeError:
        traceback.print_exc()
    sys.exit(70)
if word == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
if word == "lost":
    sys.exit(75)
def saved(number, frame):
    print("saved step 5", flush=True)
    sys.exit(75)
if word == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
else:
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        signal.signal(number, saved)
(run / "ready").touch()
if word == "orphan":
    import subprocess
    child = subprocess.Popen([sys.executable, "-c",
                              "import time; time.sleep(60)"])
    (run / "child").write_text(str(child.pid))
    sys.exit(1)
time.sleep(60)
"""


def make_sweep(path: Path, **words: list[str] | str) -> Sweep:
    """A sweep of a run each, NAME=[how its first attempt ends, ...].

    The last word counts for all attempts after it; "wait" waits for a signal.
    """
    runs = []
    (path / "words").mkdir(parents=True, exist_ok=True)
    for place, (name, ends) in enumerate(words.items()):
        run_id = f"{name}-{place:08x}"
        ends = [ends] if isinstance(ends, str) else ends
        (path / "words" / run_id).write_text(json.dumps(ends))
        runs.append(planned(run_id, place))
    sweep = Sweep(path.absolute(), facts(), runs)
    save_sweep(sweep)
    for run in runs:
        sweep.config(run.id).parent.mkdir(exist_ok=True)
        sweep.config(run.id).write_text('{"config": {"name": "fake"}}')
    return sweep


def facts() -> dict:
    """Of sweep.json."""
    metric = "validation/ema_uniform"
    return {"name": "fakes", "source": "tests", "metric": metric}


def planned(run_id: str, place: int = 0) -> PlannedRun:
    """A run of 20 steps of 8 images."""
    return PlannedRun(
        id=run_id,
        name=run_id.rpartition("-")[0],
        config_hash=run_id.rpartition("-")[2],
        role="fit",
        labels={"place": place},
        overrides={},
        parameters=1000 * (1 + place % 5),
        steps=STEPS,
        examples=8 * STEPS,
        tokens=32 * STEPS,
        flops=1e9,
        model_flops=2e9,
    )


def train_command(self: Sweep, run_id: str) -> list[str]:
    """For `Sweep.train_command`."""
    workdir = str(self.workdir(run_id))
    return [
        *(sys.executable, "-S", "-c", TRAINER, str(self.path)),
        *("--workdir", workdir),
    ]


def _attempt_command(self: Sweep, run_id: str) -> list[str]:
    return [sys.executable, __file__, "sweep", "run", str(self.path), run_id]


if __name__ == "__main__":
    sys.path.insert(0, os.fspath(Path(__file__).parents[2]))
    from i2i_prior import cli

    Sweep.train_command = train_command  # type: ignore[method-assign]
    Sweep.attempt_command = _attempt_command  # type: ignore[method-assign]
    cli.main()
