"""The `i2i-prior` command line: its subcommands, their options, an example."""

from __future__ import annotations

import argparse

from i2i_prior.commands import inspect_options as inspection
from i2i_prior.commands.fit_options import add_fit
from i2i_prior.commands.flops_options import (
    add_coordinates,
    add_flops,
)
from i2i_prior.commands.prepare_options import add_prepare
from i2i_prior.commands.sweep_options import add_sweep

# Of `interop.recognise`, which is heavy to import.
LAYOUTS = ("lumos", "dit", "sit", "repa", "pixart", "pixart_diffusers")

EXAMPLES = {
    "train": "i2i-prior train --config configs/quickstart.py "
    "--workdir runs/quickstart --config.train.steps=500",
    "sample": "i2i-prior sample --workdir runs/quickstart "
    "--images cat.png dog.jpg --num 8 --out variations",
    "interpolate": "i2i-prior interpolate --workdir runs/quickstart "
    "--start a.png --end b.png --frames 12 --out walk.gif",
    "evaluate": "i2i-prior evaluate --workdir runs/quickstart "
    "--num-samples 256",
    "fid": "i2i-prior fid folder:/data/flowers samples.npz --metrics "
    "fid,kid,pr --preset adm --json fid.json",
    "prepare": "i2i-prior prepare --source 'tar:/data/*.tar' --out latents "
    "--size 256 --latents sd --latent-weights sd-vae/ --embeddings "
    "dino=dino.pth:cls --flip",
    "import": "i2i-prior import lumos.pth --workdir runs/lumos "
    "--encoder dino.pth --autoencoder sd-vae/",
    "export": "i2i-prior export --workdir runs/quickstart --format torch "
    "--out prior",
    "weights": "i2i-prior weights inception --from "
    "pt_inception-2015-12-05-6726825d.pth",
    "compile": "i2i-prior compile --config configs/lumos_xl2.py "
    "--topology v5e:16x16 --mesh replica=16,fsdp=16",
    "coordinates": "i2i-prior coordinates --config configs/quickstart.py "
    "--widths 80,160,320 --out checked",
    "flops": "i2i-prior flops --config configs/lumos_xl2.py "
    "--accelerator h100x8 --mfu 0.4",
    "report": "i2i-prior report --workdir runs/quickstart",
    "inspect": "i2i-prior inspect 'tar:/data/*.tar' --out looked_at",
    "curate": "i2i-prior curate --source folder:photos --out good.jsonl "
    "--min-side 256 --near-duplicates phash",
    "fit": "i2i-prior fit --runs sweeps/isoflop --out laws --predict 1e20,1e21",
    "sweep": "i2i-prior sweep submit sweeps/isoflop --config "
    "configs/sweeps/isoflop.py --backend local:slots=2",
    "doctor": "i2i-prior doctor",
}


def build_parser() -> argparse.ArgumentParser:
    """All subcommands with their options and an example each."""
    parser = argparse.ArgumentParser(
        prog="i2i-prior",
        # `supervise` looks for --restarts by its whole name.
        allow_abbrev=False,
        description="Image-to-image generative priors: train, sample, "
        "measure, export.",
    )
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="COMMAND"
    )

    def add(name: str, help_text: str) -> argparse.ArgumentParser:
        return commands.add_parser(
            name,
            help=help_text,
            allow_abbrev=False,
            description=help_text,
            epilog=f"example: {EXAMPLES[name]}",
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )

    command = add("train", "Train a prior, or resume one.")
    command.add_argument(
        "--config", required=True, metavar="FILE[:ARGS]", help="config file"
    )
    command.add_argument("--workdir", required=True, help="run directory")
    command.add_argument(
        "--print-config", action="store_true", help="print it and exit"
    )
    command.add_argument(
        "--explain-sharding",
        action="store_true",
        help="print where each parameter lies and exit",
    )
    command.add_argument(
        "--profile-steps",
        metavar="FIRST:LAST",
        help="trace these steps, as 10:15, and name the top operations",
    )
    command.add_argument(
        "--restarts",
        type=int,
        default=0,
        metavar="N",
        help="start again after a crash, N times at most (one machine)",
    )
    _add_processes(command)

    command = add("sample", "Draw variations of images.")
    _from_run(command)
    command.add_argument("--images", nargs="+", required=True)
    command.add_argument("--num", type=int, default=8, help="variations each")
    command.add_argument("--out", required=True, help="folder")

    command = add("interpolate", "Walk between two images.")
    _from_run(command)
    command.add_argument("--start", required=True)
    command.add_argument("--end", required=True)
    command.add_argument("--frames", type=int, default=12)
    command.add_argument("--method", choices=("lerp", "slerp"), default="lerp")
    command.add_argument("--out", required=True, help="FILE.png or FILE.gif")

    command = add("evaluate", "Score a checkpoint.")
    _add_evaluate(command)
    _add_processes(command)

    _add_fid(add("fid", "Compare two sets of images, or their statistics."))

    command = add("prepare", "Make a sharded data set of a source.")
    add_prepare(command)
    _add_processes(command)

    _add_import(add("import", "Read weights of others."))
    _add_export(add("export", "Write weights for others."))

    command = add("weights", "Store the weights that metrics need.")
    command.add_argument("network", choices=("inception",))
    command.add_argument(
        "--from",
        dest="source",
        metavar="FILE|URL",
        required=True,
        help="published .pth, or a state dict with its names",
    )
    command.add_argument(
        "--out", metavar="FILE", help=".safetensors, else the user's cache"
    )

    _add_compile(add("compile", "Compile for a machine that is not here."))

    add_coordinates(add("coordinates", "Check muP at several widths."))

    add_flops(add("flops", "Count parameters, FLOPs and bytes of a config."))

    command = add("report", "Write report.html of a run.")
    command.add_argument("--workdir", required=True, help="run directory")

    command = add("inspect", "Look at data before training on them.")
    inspection.add_inspect(command)
    command = add("curate", "Choose the records worth training on.")
    inspection.add_curate(command)

    add_fit(add("fit", "Fit scaling laws to runs, and predict from them."))

    command = add("sweep", "Plan many runs, start, watch and collect them.")
    add_sweep(command)

    add("doctor", "What this machine has.")
    return parser


def _add_fid(command: argparse.ArgumentParser) -> None:
    images = "folder, .tar, .zip, .npz of images, SPEC, or statistics file"
    command.add_argument("reference", metavar="A", help=f"reference: {images}")
    command.add_argument("generated", metavar="B", help="the same, generated")
    command.add_argument(
        "--metrics",
        help="some of fid, fd, sfid, is, kid, pr, prdc, fd_infinity, cmmd, "
        "clip_score, psnr, ssim, lpips, by commas; else the Frechet distance",
    )
    command.add_argument(
        "--features",
        default="inception",
        help="inception, dinov2, clip, thumbnails, colour_texture or "
        "FILE.py:function, which is run",
    )
    command.add_argument(
        "--preset",
        default="adm",
        choices=("adm", "edm2", "pytorch_fid", "clean"),
        help="protocol of Inception's features",
    )
    command.add_argument("--weights", metavar="FILE", help="of the features")
    command.add_argument("--lpips-weights", metavar="FILE", help="of lpips")
    command.add_argument(
        "--size", type=int, help="crop and resize all to so many pixels a side"
    )
    command.add_argument(
        "--num", type=int, help="so many images a side, spread evenly, else all"
    )
    command.add_argument(
        "--skip-broken", action="store_true", help="measure without them"
    )
    command.add_argument("--batch-size", type=int, default=32)
    command.add_argument("--json", metavar="OUT", help="write the result")
    command.add_argument(
        "--picture", metavar="OUT.png", help="nearest and farthest images of B"
    )
    command.add_argument(
        "--save-features", metavar="OUT.npz", help="of both sides"
    )
    command.add_argument(
        "--save-statistics",
        metavar="OUT.npz",
        help="of A, to give in its place",
    )
    command.add_argument(
        "--no-cache", action="store_true", help="look at all of A again"
    )


def _add_evaluate(command: argparse.ArgumentParser) -> None:
    command.add_argument("--workdir", required=True, help="run directory")
    _add_step(command)
    command.add_argument(
        "--reference",
        help="SPEC of images to draw for and compare with, else the run's "
        "held_out; or a statistics file to compare with",
    )
    command.add_argument("--num-samples", type=int, help="generated images")
    command.add_argument(
        "--per-condition", type=int, help="of them for each held-out image"
    )
    command.add_argument(
        "--metrics",
        help="as fd,match,fidelity or fid,kid,pr; fidelity_features takes "
        "--features instead of the run's encoder",
    )
    command.add_argument("--features", help="feature set, or FILE.py:function")
    command.add_argument("--preset", help="protocol: adm, edm2, ...")
    command.add_argument("--weights", help="file of the features' network")
    command.add_argument(
        "--npz", metavar="OUT.npz", help="write the samples for ADM's tool"
    )
    command.add_argument(
        "--prompts", metavar="FILE", help="captions to draw, one a line"
    )
    command.add_argument(
        "--text-encoder", metavar="FILE", help="of a model of captions"
    )


def _add_import(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "file", help="safetensors, a torch file, or a folder with either"
    )
    command.add_argument("--workdir", help="new run directory, else only look")
    command.add_argument(
        "--format", choices=LAYOUTS, help="layout, else it is detected"
    )
    _add_weights(command)
    command.add_argument("--heads", type=int, help="attention heads")
    command.add_argument(
        "--base-size", type=int, help="tokens a side that positions count in"
    )
    command.add_argument(
        "--position-scale", type=float, help="Lumos' lewei_scale"
    )
    command.add_argument("--encoder", help="image encoder of the conditions")
    command.add_argument("--encoder-heads", type=int, help="its heads")
    command.add_argument("--encoder-family", help="as dino, mae, ijepa")
    command.add_argument(
        "--autoencoder", help="of the latents; a pair as ENCODER,DECODER"
    )
    command.add_argument(
        "--autoencoder-kind", help="sd, sdxl, sd3, ... where it cannot tell"
    )
    command.add_argument(
        "--precision",
        choices=("float32", "bfloat16", "bfloat16_matmul"),
        help="what the run computes in, else float32",
    )


def _add_export(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--workdir", required=True, help="run directory, or a weight file"
    )
    _add_step(command)
    command.add_argument(
        "--format",
        choices=("native", "torch", *LAYOUTS),
        default="native",
        help="layout; torch is a folder with its own PyTorch module",
    )
    _add_weights(command)
    command.add_argument(
        "--dtype",
        choices=("float32", "float16", "bfloat16"),
        default="float32",
        help="of a published layout's file",
    )
    command.add_argument("--part", choices=("all", "encoder"), default="all")
    command.add_argument(
        "--out", required=True, help="FILE.safetensors, FILE.pth or a folder"
    )


def _add_processes(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group(
        "several processes",
        "SLURM, Kubernetes, MPI and TPU pods are recognised; without one:",
    )
    group.add_argument(
        "--coordinator", metavar="HOST:PORT", help="where process 0 runs"
    )
    group.add_argument("--processes", type=int, help="how many there are")
    group.add_argument("--process-id", type=int, help="this one, from 0")
    group.add_argument(
        "--startup-timeout",
        type=float,
        default=300.0,
        help="seconds for all processes to come",
    )
    group.add_argument(
        "--heartbeat-timeout",
        type=float,
        default=100.0,
        help="seconds of silence after which a process counts as gone",
    )


def _add_compile(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--config", required=True, metavar="FILE[:ARGS]", help="config file"
    )
    command.add_argument(
        "--topology",
        required=True,
        help="as v5e:16x16, v5p:8x8x4*2 (two slices), h100x16",
    )
    command.add_argument(
        "--mesh", help="as replica=16,fsdp=16, else the config's"
    )
    command.add_argument(
        "--auto",
        action="store_true",
        help="search mesh, remat policy and micro-batch",
    )
    command.add_argument(
        "--quick", action="store_true", help="less effort of the compiler"
    )
    command.add_argument("--json", metavar="OUT", help="write the result here")
    command.add_argument("--hlo", metavar="OUT", help="keep XLA's program")


def _add_step(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--step", type=_step, help='checkpoint or "best", else newest'
    )


def _step(text: str) -> int | str:
    if text == "best" or text.isdecimal():
        return text if text == "best" else int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor best")


def _add_weights(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--weights",
        choices=("ema", "raw"),
        default="ema",
        help="which, where both are there",
    )


def _from_run(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--workdir", required=True, help="run directory or safetensors file"
    )
    _add_step(command)
    command.add_argument("--steps", type=int, help="solver steps")
    command.add_argument("--guidance", type=float, help="guidance scale")
    command.add_argument("--solver", help="as dpmpp_2m, ddim, euler, heun")
    command.add_argument("--seed", type=int, default=0)
