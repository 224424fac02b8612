"""Every command, through its command line."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from i2i_prior.cli import build_parser, command_module
from i2i_prior.commands import COMMANDS
from i2i_prior.data.find_images import find_images
from i2i_prior.errors import UserError


def test_help_names_every_command(command):
    ended = command("--help")
    assert ended.code == 0
    for name in COMMANDS:
        assert name in ended.out


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_an_example_that_parses(command, name):
    example = command_module(name).EXAMPLE
    ended = command(name, "--help")
    assert ended.code == 0
    text = " ".join(ended.out.split())
    assert example.startswith(f"i2i-prior {name}")
    assert f"example: {example}" in text
    words = example.split()[1:]
    options, rest = build_parser().parse_known_args(words)
    assert options.command == name
    assert all(word.startswith("--config.") for word in rest)


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("trian",),
        ("doctor", "--fast"),
        ("doctor", "--config.seed=3"),
        ("train", "--config", "x.py"),
        ("train", "--config", "x.py", "--workdir", "x", "--steps=3"),
        ("train", "--config", "x.py", "--workdir", "x", "stray"),
        ("sample", "--workdir", "x", "--images", "a", "--num", "many"),
    ],
)
def test_unknown_arguments(command, arguments):
    ended = command(*arguments)
    assert ended.code == 2
    assert "usage: i2i-prior" in ended.err
    assert "Traceback" not in ended.err


def test_overrides_only_where_they_apply(command, tmp_path):
    arguments = "--workdir", tmp_path, "--config.seed=3"
    ended = command("report", *arguments)
    assert ended.code == 1
    assert "only applies where a config is read" in ended.err


def test_print_config_explains_every_field(command, tiny_spec, tmp_path):
    ended = command(
        "train",
        "--config",
        tiny_spec,
        "--workdir",
        tmp_path / "run",
        "--print-config",
        "--config.seed=17",
    )
    assert ended.code == 0
    (line,) = [x for x in ended.out.splitlines() if x.startswith("seed ")]
    assert line.split()[:2] == ["seed", "17"]
    assert not (tmp_path / "run").exists()


def test_sample(command, run_directory, photos, tmp_path):
    first, second = sorted(photos.iterdir())[:2]
    out = tmp_path / "deep" / "out"
    ended = command(
        "sample",
        "--workdir",
        run_directory,
        "--images",
        first,
        second,
        "--num",
        3,
        "--seed",
        7,
        "--out",
        out,
    )
    assert ended.code == 0, ended.err
    assert ended.out.strip() == str(out / "grid.png")
    names = {path.name for path in out.iterdir()}
    assert names == {"grid.png"} | {
        f"{stem}-{k}.png" for stem in ("00", "01") for k in range(3)
    }
    from i2i_prior import Prior

    wanted = Prior.load(run_directory).vary([first, second], num=3, seed=7)
    assert np.array_equal(
        np.asarray(Image.open(out / "01-2.png")), wanted[1, 2]
    )


def test_sample_of_an_image_source(
    command, run_directory, photos, tmp_path, monkeypatch
):
    out = tmp_path / "out"

    def sample(*images):
        arguments = "--workdir", run_directory, "--out", out, "--num", 6
        return command("sample", *arguments, "--images", *images)

    ended = sample(f"folder:{photos}#03.png")
    assert ended.code == 0, ended.err
    assert len(list(out.glob("03-*.png"))) == 6
    ended = sample(f"folder:{photos}#x.png")
    assert "holds no image named x.png" in ended.err
    monkeypatch.setattr("i2i_prior.data.find_images.MOST_IMAGES", 20)
    ended = sample(f"folder:{photos}")
    assert ended.code == 1
    assert f"name one as folder:{photos}#NAME" in ended.err


def test_sample_from_an_exported_file(command, run_directory, photos, tmp_path):
    file = tmp_path / "prior.safetensors"
    ended = command("export", "--workdir", run_directory, "--out", file)
    assert ended.code == 0, ended.err
    assert len(ended.out.splitlines()) == 1
    assert str(file) in ended.out
    picture = sorted(photos.iterdir())[0]
    for name, source in (("run", run_directory), ("file", file)):
        ended = command(
            "sample",
            "--workdir",
            source,
            "--images",
            picture,
            "--num",
            6,
            "--out",
            tmp_path / name,
        )
        assert ended.code == 0, ended.err
    for k in range(6):
        a, b = (tmp_path / name / f"00-{k}.png" for name in ("run", "file"))
        assert a.read_bytes() == b.read_bytes()


@pytest.mark.parametrize("suffix", ["png", "gif"])
def test_interpolate(command, run_directory, photos, tmp_path, suffix):
    start, end = sorted(photos.iterdir())[:2]
    out = tmp_path / "deep" / f"walk.{suffix}"
    ended = command(
        "interpolate",
        "--workdir",
        run_directory,
        "--start",
        start,
        "--end",
        end,
        "--frames",
        3,
        "--method",
        "slerp",
        "--out",
        out,
    )
    assert ended.code == 0, ended.err
    assert ended.out.strip() == str(out)
    with Image.open(out) as image:
        if suffix == "gif":
            assert image.n_frames == 4  # there and back
        else:
            assert image.width > 4 * image.height  # start, 3 frames, end


def test_mistakes_of_sample_and_interpolate(
    command, run_directory, photos, tmp_path
):
    def said(*arguments):
        ended = command(*arguments)
        assert ended.code == 1, ended.err
        assert len(ended.err.splitlines()) == 1
        assert ended.err.startswith("error: ")
        return ended.err

    picture = sorted(photos.iterdir())[0]
    sample = "sample", "--workdir", run_directory, "--out", tmp_path / "out"
    assert "no-such.png" in said(*sample, "--images", "no-such.png")
    with_picture = *sample, "--images", picture
    assert "--num must be 1 or more" in said(*with_picture, "--num", 0)
    assert "rk45" in said(*with_picture, "--solver", "rk45")
    assert "steps" in said(*with_picture, "--steps", -3)
    assert "step 5" in said(*with_picture, "--step", 5)
    walk = "interpolate", "--workdir", run_directory, "--start", picture
    walk = *walk, "--end", picture, "--out"
    assert ".png or .gif" in said(*walk, tmp_path / "walk.mp4")
    two = tmp_path / "walk.png", "--frames", 1
    assert "2 frames or more" in said(*walk, *two)
    (tmp_path / "file").write_text("")
    inside = tmp_path / "file" / "walk.png"
    assert "cannot write" in said(*walk, inside)
    export = "export", "--workdir", run_directory, "--out"
    assert ".safetensors" in said(*export, tmp_path / "weights.bin")
    inside = tmp_path / "file" / "x.safetensors"
    assert "cannot write" in said(*export, inside)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


@pytest.fixture
def copied(run_directory, tmp_path):
    """A copy of the run, which a test may change."""
    return shutil.copytree(run_directory, tmp_path / "run")


def test_evaluate_and_report(command, copied, photos):
    for file in (copied / "evaluations").iterdir():
        file.unlink()
    (copied / "report.html").unlink()
    ended = command(
        "evaluate",
        "--workdir",
        copied,
        "--reference",
        f"folder:{photos}",
        "--num-samples",
        6,
        "--features",
        "thumbnails",
        "--config.evaluate.batch_size=6",
    )
    assert ended.code == 0, ended.err
    (line,) = ended.out.splitlines()
    assert line.startswith("step 6, ")
    assert "FD-thumb8hog" in line
    assert "N 6, " in line
    (file,) = (copied / "evaluations").glob("*.json")
    assert file.name.startswith("00000006-thumbnails-")
    assert file.with_suffix(".png").is_file()
    result = json.loads(file.read_text())
    assert result["num_samples"] == 6
    assert result["reference"]["file"] == f"folder:{photos}"
    assert 0 <= result["metrics"]["top1"] <= 1
    ended = command("report", "--workdir", copied)
    assert ended.code == 0, ended.err
    assert ended.out.strip() == str(copied / "report.html")
    assert "FD-thumb8hog" in (copied / "report.html").read_text()


def test_a_report_that_cannot_be_written(command, copied):
    (copied / "report.html").unlink()
    (copied / "report.html").mkdir()
    ended = command("report", "--workdir", copied)
    assert ended.code == 1
    assert ended.err.startswith(f"error: cannot write {copied} (")
    assert len(ended.err.splitlines()) == 1


def test_evaluate_needs_a_run_directory(command, tmp_path):
    file = tmp_path / "prior.safetensors"
    file.write_bytes(b"weights")
    ended = command("evaluate", "--workdir", file)
    assert ended.code == 1
    assert "is a file; scores are written into a run directory" in ended.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--config.model.depth=3",), "would change the model"),
        (("--num-samples", "1"), "--num-samples must be 2 or more"),
        (("--num-samples", "0"), "--num-samples must be 2 or more"),
        (("--features", "magic"), "there are no features 'magic'"),
        (("--reference", "folder:/no/such"), "/no/such does not exist"),
        (("--step", "5"), "no complete checkpoint of step 5"),
        (("--config.sample.solver=rk45",), "rk45"),
    ],
)
def test_mistakes_of_evaluate(command, copied, arguments, said):
    before = sorted(path.name for path in copied.rglob("*"))
    ended = command("evaluate", "--workdir", copied, *arguments)
    assert ended.code == 1
    assert said in ended.err
    assert ended.err.startswith("error: ")
    assert len(ended.err.splitlines()) == 1
    assert sorted(path.name for path in copied.rglob("*")) == before


def test_doctor(command, monkeypatch):
    from i2i_prior.commands import doctor

    rate = doctor._matmul_rate
    monkeypatch.setattr(doctor, "_matmul_rate", lambda dtype: rate(dtype, 32))
    ended = command("doctor")
    assert ended.code == 0, ended.err
    for word in ("jax", "4 x cpu", "cores", "memory", "lumos_xl2", "7 found"):
        assert word in ended.out, word


WITHOUT = """
import importlib, pkgutil, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "tensorflow"):
            raise ModuleNotFoundError(f"no {name} here", name=name)

sys.meta_path.insert(0, Absent())
import i2i_prior
assert not {"jax", "numpy"} & set(sys.modules), "import i2i_prior is light"
for module in pkgutil.walk_packages(i2i_prior.__path__, "i2i_prior."):
    importlib.import_module(module.name)
    print(module.name)
assert not {"torch", "tensorflow"} & set(sys.modules)
"""


def test_every_module_imports_without_torch_and_tensorflow(python):
    process = python("-c", WITHOUT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert len(out.splitlines()) > 40


def test_imports_do_not_pull_torch_or_tensorflow_in(python):
    code = (
        "import sys, i2i_prior.cli, i2i_prior.train\n"
        "import i2i_prior.inference.prior\n"
        "assert not {'torch', 'tensorflow'} & set(sys.modules)"
    )
    process = python("-c", code)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err


def test_the_command_line_is_parsed_without_heavy_modules(python):
    code = (
        "import sys, i2i_prior.cli\n"
        "i2i_prior.cli.build_parser()\n"
        "heavy = {'jax', 'numpy', 'ml_collections', 'PIL', 'matplotlib'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    process = python("-c", code)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err


def test_images_are_found_by_path_spec_and_name(photos):
    [(name, image)] = find_images(str(photos / "03.png"))
    assert name == "03.png"
    [(same, pixels)] = find_images(f"folder:{photos}#03.png")
    assert (same, pixels.tolist()) == (name, image.tolist())
    assert len(find_images(f"folder:{photos}")) == 24
    found = find_images("builtin:photos/heldout")
    assert [name for name, _ in found] == [
        "astronaut.png",
        "coffee.png",
        "flower.jpg",
    ]


def test_images_that_are_not_found(photos, monkeypatch):
    with pytest.raises(UserError, match=r"no image named 99\.png"):
        find_images(f"folder:{photos}#99.png")
    with pytest.raises(UserError, match="cannot read the image"):
        find_images(str(photos / "99.png"))
    monkeypatch.setattr("i2i_prior.data.find_images.MOST_IMAGES", 3)
    with pytest.raises(UserError, match="holds 24 images; name one"):
        find_images(f"folder:{photos}")


def test_explain_sharding(command, tiny_spec, tmp_path):
    ended = command(
        "train",
        "--config",
        tiny_spec,
        "--workdir",
        tmp_path / "run",
        "--explain-sharding",
        "--config.mesh.tensor=2",
    )
    assert ended.code == 0, ended.err
    lines = ended.out.splitlines()
    [line] = [n for n in lines if n.startswith("ema/dit/blocks/mlp/out/kernel")]
    # 2 layers of 80 x 32 (SwiGLU), rows over tensor, columns over fsdp.
    assert "(2, 80, 32)" in line
    assert "(-, tensor, fsdp*context)" in line
    assert line.split()[-1] == "5,120"  # bytes: 2 x 40 x 16 float32
    assert not (tmp_path / "run").exists()


def test_a_crash_is_no_mistake(command, monkeypatch):
    def broken(options, overrides) -> int:
        raise ZeroDivisionError("on no account")

    monkeypatch.setattr("i2i_prior.commands.doctor.run", broken)
    ended = command("doctor")
    assert ended.code == 70
    assert "ZeroDivisionError: on no account" in ended.err


def test_a_reader_that_has_seen_enough(python, tiny_spec, tmp_path):
    arguments = "--config", tiny_spec, "--workdir", tmp_path / "run"
    process = python(
        *("-m", "i2i_prior.cli", "train", *arguments, "--print-config")
    )
    process.stdout.close()
    assert process.wait(60) == 141
    assert process.stderr.read() == ""
