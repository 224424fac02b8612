"""Time of 20-step sampling on the CPU: this project against PyTorch.

    PYTHONPATH=. python benchmarks/sampling_time.py [--json OUT] [--rounds 9]

DPM-Solver++(2M) with guidance 4.5 from the same noise, on the small Lumos
model of `step_time.py` with the same random weights: 20 evaluations of a
batch of 2 x 8. Ours is what a user calls, `Prior.load(FILE).sample(noise,
tokens)`; PyTorch's is the loop below under inference_mode. The table says how
far the two results are apart. `interleaved` says how it is
timed.
"""

from __future__ import annotations

import argparse
import functools
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import lumos_pair
import numpy as np
from interleaved import Worker, add_turns, compare, main, serve, show, to_json
from lumos_pair import (
    CHANNELS,
    Run,
    Setting,
    our_facts,
    random_batch,
    torch_facts,
    torch_fast,
    torch_model,
)


def schedule(steps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Times 1000 t - 1, alpha and sigma of DPM-Solver's uniform grid.

    Linear betas over 1000 steps, log alpha linear between them (arXiv
    2206.00927 appendix D.4), t even from 1 to 1 / 1000; each (steps + 1,).
    """
    betas = np.linspace(1e-4, 2e-2, 1000)
    log_alpha = 0.5 * np.cumsum(np.log1p(-betas))
    t = np.linspace(1, 1e-3, steps + 1)
    alpha = np.exp(np.interp(t, np.arange(1, 1001) / 1000, log_alpha))
    return 1000 * t - 1, alpha, np.sqrt(1 - alpha**2)


def our_sampling(setting: Setting, weights: str, kept: list) -> Run:
    """Sampling by `Prior.sample`; `kept` gets the last latents."""
    from i2i_prior import Prior

    prior = Prior.load(
        weights, heads=setting.heads, precision=setting.precision
    )
    batch = random_batch(setting)

    def run(steps: int) -> float:
        for _ in range(steps):
            latents = prior.sample(
                batch["x"],
                tokens=batch["embedding"],
                steps=setting.steps,
                guidance=setting.guidance,
                solver="dpmpp_2m",
            ).block_until_ready()
        kept[:] = [np.asarray(latents)]
        return float(kept[0].mean())

    return run


def torch_sampling(setting: Setting, weights: str, kept: list) -> Run:
    """DPM-Solver++(2M) (arXiv 2211.01095 Alg. 2), first-order last step."""
    import torch

    model, call = torch_model(setting)
    model.load_state_dict(torch.load(weights))
    batch = random_batch(setting)
    noise = torch.from_numpy(batch["x"]).permute(0, 3, 1, 2).contiguous()
    tokens = torch.from_numpy(batch["embedding"])
    null = model.y_embedder.y_embedding.expand_as(tokens)
    both = torch.cat([tokens, null]).contiguous()
    times, alpha, sigma = schedule(setting.steps)
    rate = np.log(alpha / sigma)

    def estimate(x: torch.Tensor, i: int) -> torch.Tensor:
        time = torch.full((2 * len(x),), float(times[i]))
        with torch_fast(setting):
            out = call(torch.cat([x, x]), time, both)
        cond, without = out[:, :CHANNELS].float().chunk(2)
        eps = without + setting.guidance * (cond - without)
        return (x - float(sigma[i]) * eps) / float(alpha[i])

    @torch.inference_mode()
    def sample() -> torch.Tensor:
        x, previous = noise, None
        for i in range(setting.steps):
            x0 = estimate(x, i)
            ratio = sigma[i + 1] / sigma[i]
            data = x0
            if previous is not None and i < setting.steps - 1:
                before = rate[i] - rate[i - 1]
                weight = 0.5 * (rate[i + 1] - rate[i]) / before
                data = x0 + float(weight) * (x0 - previous)
            x = float(ratio) * x + float(alpha[i + 1] - alpha[i] * ratio) * data
            previous = x0
        return x

    def run(steps: int) -> float:
        for _ in range(steps):
            latents = sample()
        kept[:] = [latents.permute(0, 2, 3, 1).numpy()]
        return float(kept[0].mean())

    return run


def write_weights(setting: Setting, file: Path) -> None:
    """A state dict in which every weight is random, at a sane scale."""
    import torch

    model, _ = torch_model(replace(setting, compiled=False))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 400
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(noise / fan_in**0.5)
    torch.save(model.state_dict(), file)


def work(program: str, text: str, name: str) -> None:
    """Runs a worker, which leaves its latents in the folder of that name."""
    setting, folder = Setting(**json.loads(text)), Path(name)
    weights = str(folder / "lumos.pth")
    ours = program == "ours"
    kept: list[np.ndarray] = []

    def build() -> Run:
        make = our_sampling if ours else torch_sampling
        return make(setting, weights, kept)

    def facts() -> dict:
        np.save(folder / f"{program}.npy", kept[0])
        return our_facts() if ours else torch_facts()

    serve(build, facts)


def start(program: str, setting: Setting, folder: Path) -> Worker:
    """Starts the process of a program."""
    words = program, to_json(setting), folder
    return Worker.of_script(__file__, *words, threads=setting.threads)


def differences(result: dict, folder: Path) -> None:
    """Adds how far each program's latents are from ours, over the largest."""
    wanted = np.load(folder / "ours.npy")
    for name, row in result["programs"].items():
        found = np.load(folder / f"{name}.npy")
        apart = np.abs(found - wanted).max() / np.abs(wanted).max()
        row["difference"] = float(apart)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that are its own."""
    add_turns(parser)
    lumos_pair.add_options(parser)
    parser.add_argument("--batch", type=int, default=8, help="images")


def measure(options: argparse.Namespace) -> dict:
    """Figures by precision."""
    results: dict[str, Any] = {}
    base = Setting(batch=options.batch)
    for precision, programs in lumos_pair.settings(options, base):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_weights(programs["ours"], folder / "lumos.pth")
            starts = {
                program: functools.partial(start, program, setting, folder)
                for program, setting in programs.items()
            }
            result = compare(
                starts, options.rounds, options.steps, options.others
            )
            differences(result, folder)
        show(precision, result)
        for program, row in result["programs"].items():
            print(f"{program:8} apart {row['difference']:.1e}")
        results[precision] = result
    return {
        "threads": options.threads,
        "shortcut": options.shortcut,
        "results": results,
    }


if __name__ == "__main__":
    main(__doc__, 9, measure, add_options, work)
