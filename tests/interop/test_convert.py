"""Commands `import` and `export`, and their lines in the README."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

from PIL import Image  # noqa: E402

from i2i_prior import Prior  # noqa: E402
from tests.interop.fixtures_torch_folder import open_module  # noqa: E402
from tests.interop.test_dit_layouts import randomised  # noqa: E402
from tests.peers.torch_lumos import TorchLumos  # noqa: E402
from tests.peers.torch_official import TorchDiT  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]


def official_dino(width: int) -> dict:
    """A random ViT of two layers under DINO's official names."""
    generator = torch.Generator().manual_seed(1)
    shapes = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, 5, width),
        "patch_embed.proj.weight": (width, 3, 16, 16),
        "patch_embed.proj.bias": (width,),
        "norm.weight": (width,),
        "norm.bias": (width,),
    }
    for i in range(2):
        for name, (rows, columns) in {
            "attn.qkv": (3 * width, width),
            "attn.proj": (width, width),
            "mlp.fc1": (4 * width, width),
            "mlp.fc2": (width, 4 * width),
        }.items():
            shapes[f"blocks.{i}.{name}.weight"] = (rows, columns)
            shapes[f"blocks.{i}.{name}.bias"] = (rows,)
        for name in ("norm1", "norm2"):
            shapes[f"blocks.{i}.{name}.weight"] = (width,)
            shapes[f"blocks.{i}.{name}.bias"] = (width,)
    return {
        name: torch.randn(shape, generator=generator) / 4
        for name, shape in shapes.items()
    }


@pytest.fixture(scope="module")
def released(tmp_path_factory) -> Path:
    """Tiny files under the names of the released ones, and two pictures."""
    folder = tmp_path_factory.mktemp("released")
    model = randomised(TorchLumos(2, 72, 1, 2, 8, 4, 64, 1))
    torch.save(model.state_dict(), folder / "Lumos_I2I.pth")
    torch.save(official_dino(64), folder / "dino_vitbase16_pretrain.pth")
    vae = diffusers.AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=4,
    )
    randomised(vae).save_pretrained(folder / "sd-vae-ft-mse")
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        pixels = rng.integers(0, 256, (40, 56, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")
    return folder


def lines_of(heading: str) -> list[str]:
    """README's indented lines under a heading."""
    text = (ROOT / "README.md").read_text()
    section = text.split(f"## {heading}\n")[1].split("\n## ")[0]
    return [m[1] for m in re.finditer(r"^    (.*)$", section, re.M)]


def run_lines(lines: list[str], folder: Path, blocked: tuple = ()) -> str:
    """Runs them in a fresh process; `blocked` cannot be imported there."""
    code = "\n".join(
        [
            "import sys",
            *(f"sys.modules[{name!r}] = None" for name in blocked),
            *lines,
            "print(images.shape, images.dtype)",
            "print(sorted(n for n in sys.modules if n in ('jax', 'flax')))",
        ]
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": "" if blocked else str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_from_pytorch_as_the_readme_says(released):
    lines = lines_of("From PyTorch")
    statements = re.sub(r",\s+autoencoder", ", autoencoder", "\n".join(lines))
    assert len(statements.splitlines()) <= 5
    said = run_lines([*lines, "print(walk.shape)"], released)
    assert "(12, 64, 64, 3)" in said
    assert "(1, 4, 64, 64, 3) uint8" in said


def test_to_pytorch_as_the_readme_says(
    command, run_directory, released, tmp_path
):
    """Trained here, run in a process that has neither JAX nor us."""
    shell, *lines = lines_of("To PyTorch")
    arguments = shell.removeprefix("i2i-prior ").split()
    where = arguments.index("runs/quickstart")
    arguments[where] = str(run_directory)
    arguments[arguments.index("prior")] = str(tmp_path / "prior")
    ended = command(*arguments)
    assert ended.code == 0, ended.err
    assert len(lines) == 5
    (tmp_path / "cat.png").write_bytes((released / "cat.png").read_bytes())
    blocked = "jax", "jaxlib", "flax", "i2i_prior", "orbax"
    said = run_lines(lines, tmp_path, blocked)
    assert "torch.Size([1, 4, 8, 8, 3]) torch.uint8" in said
    card = (tmp_path / "prior" / "README.md").read_text()
    facts = json.loads((run_directory / "metadata.json").read_text())
    for fact in ("config_hash", "data_fingerprint"):
        assert facts[fact] in card
    # And back: the folder is the run, bit for bit.
    run, folder = Prior.load(run_directory), Prior.load(tmp_path / "prior")
    assert run.parameters.keys() == folder.parameters.keys()
    for name, array in run.parameters.items():
        assert np.array_equal(array, folder.parameters[name]), name


@pytest.fixture(scope="module")
def imported(command, released, tmp_path_factory):
    """The released files as a run directory, and what was said."""
    workdir = tmp_path_factory.mktemp("imported") / "run"
    ended = command(
        "import",
        released / "Lumos_I2I.pth",
        "--workdir",
        workdir,
        "--encoder",
        released / "dino_vitbase16_pretrain.pth",
        "--autoencoder",
        released / "sd-vae-ft-mse",
    )
    assert ended.code == 0, ended.err
    return workdir, ended.out


def test_import_says_what_it_found(imported, released, command):
    workdir, said = imported
    facts = json.loads((workdir / "metadata.json").read_text())
    assert f"lumos, {facts['parameters']:,} parameters" in said
    assert "conditioner.null = 'random'" in said
    assert "model.heads = 1" in said
    assert "encoder.kind = 'frozen'" in said
    assert "autoencoder.shape = " in said
    assert facts["layout"] == "lumos"
    # Without --workdir it only looks.
    model = TorchLumos(2, 72, 1, 2, 8, 4, 64, 1)
    count = sum(p.numel() for p in model.parameters())
    ended = command("import", released / "Lumos_I2I.pth")
    assert f"{count:,} parameters" in ended.out
    for name, kind in (
        ("dino_vitbase16_pretrain.pth", "image encoder (dino)"),
        ("sd-vae-ft-mse", "autoencoder (diffusers)"),
    ):
        ended = command("import", released / name)
        assert ended.code == 0, ended.err
        assert kind in ended.out


def test_an_imported_run_samples_and_goes_back(
    imported, released, command, tmp_path
):
    workdir, _ = imported
    ended = command(
        "sample",
        "--workdir",
        workdir,
        "--images",
        released / "cat.png",
        "--num",
        "2",
        "--out",
        tmp_path / "out",
    )
    assert ended.code == 0, ended.err
    assert Image.open(tmp_path / "out" / "cat-1.png").size == (64, 64)
    ended = command(
        "export",
        "--workdir",
        workdir,
        "--format",
        "lumos",
        "--out",
        tmp_path / "back.pth",
    )
    assert ended.code == 0, ended.err
    first = torch.load(released / "Lumos_I2I.pth", weights_only=True)
    back = torch.load(tmp_path / "back.pth", weights_only=True)
    assert first.keys() == back.keys()
    assert all(torch.equal(first[key], back[key]) for key in first)
    ended = command(
        "train",
        "--config",
        ROOT / "configs/quickstart.py",
        "--workdir",
        workdir,
    )
    assert ended.code == 1
    assert f"train.init_from={workdir}" in ended.err


@pytest.mark.parametrize("layout", ["dit", "sit", "repa"])
def test_models_of_classes_go_there_and_back(layout, command, tmp_path):
    """In by the command line, out again, and a torch folder that samples."""
    model = randomised(
        TorchDiT(2, 72, 1, 8, 10, sigma=layout != "repa", qk_norm=True)
    )
    file, workdir = tmp_path / "model.pt", tmp_path / "run"
    torch.save(model.state_dict(), file)
    named = ("--format", layout) if layout == "sit" else ()
    ended = command("import", file, "--workdir", workdir, *named)
    assert ended.code == 0, ended.err
    export = "export", "--workdir", workdir, "--format"
    ended = command(*export, layout, "--out", tmp_path / "back.pt")
    assert ended.code == 0, ended.err
    back = torch.load(tmp_path / "back.pt", weights_only=True)
    assert back.keys() == model.state_dict().keys()
    for key, value in model.state_dict().items():
        assert torch.equal(back[key], value), key
    ended = command(*export, "torch", "--out", tmp_path / "folder")
    assert ended.code == 0, ended.err
    if layout == "dit":
        return
    theirs = open_module(tmp_path / "folder").Prior
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([3, 7])
    wanted = theirs.from_pretrained(tmp_path / "folder").sample(
        noise, pooled=labels, steps=3
    )
    found = Prior.load(workdir).sample(
        noise.permute(0, 2, 3, 1).numpy(), pooled=labels.numpy(), steps=3
    )
    wanted = wanted.permute(0, 2, 3, 1).numpy()
    assert np.abs(found - wanted).max() <= 1e-4 * np.abs(wanted).max()


def test_torch_folder_of_a_latent_model(imported, released, command, tmp_path):
    """The autoencoder lies beside in diffusers' layout, and decodes."""
    out = tmp_path / "prior"
    arguments = "--workdir", imported[0], "--format", "torch", "--out", out
    ended = command("export", *arguments)
    assert ended.code == 0, ended.err
    assert (out / "autoencoder" / "config.json").exists()
    code = [
        f"sys.path.insert(0, {str(out)!r})",
        "from i2i_prior_torch import Prior",
        f"prior = Prior.from_pretrained({str(out)!r})",
        "images = prior.vary(['cat.png'], num=1, steps=2)",
        "import torch",
        "z = torch.linspace(-1, 1, 256).reshape(1, 4, 8, 8)",
        f"torch.save(prior.decode(z), {str(tmp_path / 'z.pt')!r})",
    ]
    said = run_lines(code, released, ("jax", "flax", "i2i_prior"))
    assert "torch.Size([1, 1, 64, 64, 3])" in said
    run, folder = Prior.load(imported[0]), Prior.load(out)
    for name, array in run.parameters.items():
        assert np.array_equal(array, folder.parameters[name]), name
    z = np.linspace(-1, 1, 256, dtype="f4").reshape(1, 4, 8, 8)
    ours = run.decode(z.transpose(0, 2, 3, 1)).astype(int)
    theirs = torch.load(tmp_path / "z.pt", weights_only=True).numpy()
    assert np.abs(ours - theirs).max() <= 1


def test_raw_weights_on_request(command, run_directory, tmp_path):
    def export(weights):
        out = tmp_path / f"{weights}.safetensors"
        ended = command(
            "export",
            "--workdir",
            run_directory,
            "--weights",
            weights,
            "--out",
            out,
        )
        assert ended.code == 0, ended.err
        return Prior.load(out).parameters

    ema, raw = export("ema"), export("raw")
    assert ema.keys() == raw.keys()
    name = "dit/patch_embed/kernel"
    assert not np.array_equal(ema[name], raw[name])


@pytest.mark.parametrize(
    ("layout", "reason"),
    [
        ("lumos", "its blocks are modern, not lumos"),
        ("dit", "its blocks are modern, not dit"),
        ("pixart", "its blocks are modern, not pixart"),
    ],
)
def test_refusals_name_reason_and_alternative(
    command, run_directory, tmp_path, layout, reason
):
    out = tmp_path / "out.safetensors"
    ended = command(
        "export", "--workdir", run_directory, "--format", layout, "--out", out
    )
    assert ended.code == 1
    assert reason in ended.err
    assert "--format torch" in ended.err
    assert len(ended.err.splitlines()) == 1
    assert not out.exists()


def hostile(name: str, folder: Path) -> Path:
    """Files that are not what they should be."""
    state = TorchLumos(2, 72, 1, 2, 8, 4, 64, 1).state_dict()
    file = folder / f"{name}.pth"
    if name == "payload":

        class Payload:
            def __reduce__(self):
                return os.system, (f"touch {folder / 'ran'}",)

        torch.save({"state_dict": state, "more": Payload()}, file)
    elif name == "missing":
        state.pop("blocks.1.mlp.fc1.weight")
        state.pop("t_embedder.mlp.0.bias")
        torch.save(state, file)
    elif name == "extra":
        torch.save({**state, "blocks.0.lora.weight": torch.ones(2)}, file)
    elif name == "misshapen":
        state["final_layer.scale_shift_table"] = torch.ones(2, 71)
        torch.save(state, file)
    elif name == "nan":
        state["blocks.1.mlp.fc1.weight"][3, 4] = float("nan")
        torch.save(state, file)
    elif name == "positions":
        state["pos_embed"] = torch.randn(1, 16, 72)
        torch.save(state, file)
    elif name == "another":
        torch.save(torch.nn.Linear(3, 4).state_dict(), file)
    elif name == "truncated":
        torch.save(state, file)
        file.write_bytes(file.read_bytes()[:5000])
    elif name == "terabyte":
        file = folder / "terabyte.safetensors"
        file.write_bytes((10**12).to_bytes(8, "little") + b'{"a":1}')
    return file


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("payload", "system"),
        ("missing", "2 missing (t_embedder.mlp.0.bias, blocks.1.mlp.fc1"),
        ("extra", "1 unexpected (blocks.0.lora.weight)"),
        ("misshapen", "scale_shift_table (2, 71), not (2, 72)"),
        ("nan", "NaN or infinite"),
        ("positions", "pos_embed"),
        ("another", "its first keys are weight, bias"),
        ("truncated", "truncated"),
        ("terabyte", "terabyte"),
    ],
)
def test_hostile_files(command, tmp_path, name, said):
    """One sentence, nothing run, nothing written."""
    file = hostile(name, tmp_path)
    workdir = tmp_path / "run"
    ended = command("import", file, "--workdir", workdir)
    assert ended.code == 1
    assert said in ended.err
    assert len(ended.err.splitlines()) == 1, ended.err
    assert not workdir.exists()
    assert not (tmp_path / "ran").exists()
