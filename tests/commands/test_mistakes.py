"""Mistakes end in one sentence and leave the workdir usable."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from i2i_prior.config import flatten


@pytest.fixture
def train(command, tiny_spec, tmp_path):
    """train("field=value", ...) into a workdir of this test."""

    def run(*overrides, spec=tiny_spec, workdir=tmp_path / "run"):
        return command(
            "train",
            "--config",
            spec,
            "--workdir",
            workdir,
            *(f"--config.{override}" for override in overrides),
        )

    return run


def sentence(ended) -> str:
    """The error line, checked to be the only one, without a traceback."""
    assert ended.code == 1, ended.err
    lines = ended.err.splitlines()
    assert sum(line.startswith("error: ") for line in lines) == 1, lines
    assert lines[-1].startswith("error: ")
    assert "Traceback" not in ended.err
    assert not ended.out
    return lines[-1].removeprefix("error: ")


def contents(folder) -> dict:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("model.head=3", "did you mean model.heads?"),
        ("model.heads=many", "model.heads takes an integer, not 'many'"),
        ("model.heads=5", "width 32 does not split into 5 heads"),
        ("model.width=30", "change model.width or model.heads"),
        ("model.patch=3", "does not split into patches of 3"),
        ("model.block=fancy", "model.block 'fancy' is unknown"),
        ("model.precision=half", "model.precision is 'half'; choose"),
        ("model.remat=some", "model.remat 'some' is unknown"),
        ("encoder.heads=3", "3 heads the width 16"),
        ("encoder.patch=3", "patches of 3 must divide the image of 8"),
        ("data.batch_size=6", "does not divide over 4 data-parallel devices"),
        ("mesh.fsdp=3", "does not lay out 4 devices"),
        ("data.source=folder:/no/such", "/no/such does not exist"),
        ("data.source=tar:/no/such.tar", "/no/such.tar does not exist"),
        ("data.source=photos", "'photos' is not understood"),
        ("data.held_out=folder:/no/held", "/no/held does not exist"),
        ("data.min_side=17", "There is no readable image"),
        ("data.seed=3", "no field data.seed"),
        ("conditioner.expand=1", "one condition token"),
        ("encoder.kind=frozen", "a frozen encoder needs encoder.weights"),
        ("diffusion.learn_sigma=true", "learn_sigma needs a DDPM path"),
        ("diffusion.shift=0", "shift"),
        ("sample.solver=rk45", "sample.solver is 'rk45'"),
    ],
)
def test_before_the_workdir_is_made(train, tmp_path, override, said):
    assert said in sentence(train(override))
    assert len(train(override).err.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_two_fields_that_do_not_go_together(train, tmp_path):
    ended = train("diffusion.path=ddpm_linear", "diffusion.shift=3.0")
    assert "shift" in sentence(ended)
    ended = train("encoder.kind=frozen", "encoder.weights=/no/file")
    assert "no weight file /no/file" in sentence(ended)
    assert not (tmp_path / "run").exists()


def test_a_wrong_start_can_be_corrected_in_the_same_workdir(
    train, tmp_path, run_directory
):
    """The workdir is claimed only once there is a first state."""
    said = sentence(train("train.init_from=/no/such/run"))
    assert "/no/such/run holds no checkpoints" in said
    assert not (tmp_path / "run").exists()
    ended = train(f"train.init_from={run_directory}")
    assert ended.code == 0, ended.err
    assert f"parameters from {run_directory}" in ended.err


def test_an_empty_folder_and_one_without_images(train, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    for _ in range(2):
        said = sentence(train(f"data.source=folder:{empty}"))
        assert f"{empty} holds no image" in said
        (empty / "notes.txt").write_text("no image")
    assert not (tmp_path / "run").exists()


def jpeg(path, seed=0):
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (16, 16, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path.read_bytes()


def huge(path):
    # 1 bit a pixel: 50 MB in memory here, 1.2 GB where it was decoded.
    Image.new("1", (20_000, 20_000)).save(path)


def corrupt(path):
    data = bytearray(jpeg(path))
    data[2:] = bytes(len(data) - 2)
    path.write_bytes(data)


def truncated(path):
    data = jpeg(path)
    path.write_bytes(data[: len(data) // 2])


BROKEN = {
    "corrupt.jpg": corrupt,
    "truncated.png": truncated,
    "huge.png": huge,
    "empty.jpg": lambda path: path.write_bytes(b""),
    "small.png": lambda path: Image.new("RGB", (7, 30)).save(path),
}


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """A folder of one broken image of each kind."""
    folder = tmp_path_factory.mktemp("broken")
    for name, make in BROKEN.items():
        make(folder / name)
    return folder


@pytest.mark.parametrize("name", BROKEN)
def test_nothing_but_a_broken_image(train, tmp_path, broken, name):
    folder = tmp_path / "images"
    folder.mkdir()
    shutil.copy(broken / name, folder)
    ended = train(f"data.source=folder:{folder}", "data.min_side=8")
    said = sentence(ended)
    assert "There is no readable image" in said
    assert name in said
    assert not (tmp_path / "run").exists()


@pytest.fixture
def mixed(photos, broken, tmp_path):
    """24 good images and the five broken ones."""
    folder = tmp_path / "images"
    shutil.copytree(photos, folder)
    shutil.copytree(broken, folder, dirs_exist_ok=True)
    return folder


def test_a_few_broken_images_are_replaced_counted_and_named(
    train, tmp_path, mixed
):
    ended = train(
        f"data.source=folder:{mixed}",
        "data.min_side=8",
        "data.max_broken=0.9",
        "train.sample_every=6",
        f"data.held_out=folder:{mixed}",
    )
    assert ended.code == 0, ended.err
    assert "examples had unreadable images, replaced: " in ended.err
    listed = json.loads((tmp_path / "run" / "broken.json").read_text())
    # 48 examples show each of the 29 images once or twice.
    assert {line.split(" ")[0] for line in listed} == set(BROKEN)
    assert any("huge.png (has more than" in line for line in listed)
    assert any("small.png (is smaller than" in line for line in listed)
    last = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1]
    assert json.loads(last)["broken"] >= len(BROKEN)


def test_too_many_broken_images_end_the_run_which_can_go_on(
    train, tmp_path, mixed
):
    overrides = f"data.source=folder:{mixed}", "data.min_side=8"
    said = sentence(train(*overrides, "train.steps=20"))
    assert "images are broken, more than the share of 0.01 allowed" in said
    assert any(name in said for name in BROKEN)
    assert (tmp_path / "run" / "checkpoints").is_dir()
    ended = train(*overrides, "train.steps=14", "data.max_broken=0.5")
    assert ended.code == 0, ended.err
    assert "resumed, step " in ended.err


def test_a_workdir_of_another_config_stays_as_it_is(train, run_directory):
    before = contents(run_directory)
    said = sentence(train("model.depth=3", "seed=1", workdir=run_directory))
    assert "holds a run of another config" in said
    assert "model.depth 2 there, 3 here" in said
    assert "seed 0 there, 1 here" in said
    assert contents(run_directory) == before


def test_a_folder_that_is_no_run_stays_as_it_is(train, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "thesis.tex").write_text("years of work")
    assert "not empty and not a run directory" in sentence(train())
    assert contents(folder) == {"thesis.tex": b"years of work"}
    file = tmp_path / "file"
    file.write_text("text")
    assert "is a file; choose a folder" in sentence(train(workdir=file))
    said = sentence(train(workdir=file / "below"))
    assert f"cannot write {file / 'below'}" in said
    assert file.read_text() == "text"


def test_a_damaged_config_json(train, tmp_path, tiny):
    folder = tmp_path / "run"
    folder.mkdir()
    file = folder / "config.json"
    flat = flatten(tiny())
    for text in (
        "",
        "{",
        "[]",
        "{}",
        json.dumps({"config": [1]}),
        json.dumps({"config": {**flat, "model.horns": 2}}),
        json.dumps({"config": {**flat, "model.heads": "two"}}),
    ):
        file.write_text(text)
        said = sentence(train())
        assert f"{file} is not" in said
        assert file.read_text() == text


@pytest.mark.parametrize(
    "arguments",
    [
        ("sample", "--images", "x.png", "--out", "OUT"),
        ("interpolate", "--start", "a", "--end", "b", "--out", "OUT.gif"),
        ("evaluate",),
        ("export", "--out", "OUT.safetensors"),
        ("report",),
    ],
    ids=lambda arguments: arguments[0],
)
def test_other_commands_on_a_folder_that_is_no_run(
    command, tmp_path, monkeypatch, arguments
):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b", "x.png"):
        jpeg(tmp_path / f"{name}.png")
        shutil.move(tmp_path / f"{name}.png", tmp_path / name)
    before = contents(tmp_path)
    name, *rest = arguments
    said = sentence(command(name, "--workdir", tmp_path / "none", *rest))
    assert "none" in said
    assert contents(tmp_path) == before
