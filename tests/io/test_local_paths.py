"""Runs and results are refused a bucket's URL before anything is computed."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from i2i_prior.cli import build_parser
from i2i_prior.errors import UserError
from i2i_prior.io.files import local_path, write_bytes

URL = "s3://bucket/run"
COMMANDS = {
    "train": ("--config", "TINY", "--workdir", URL),
    "sample": ("--workdir", URL, "--images", "a.png", "--out", "out"),
    "sample to": ("--workdir", "RUN", "--images", "a.png", "--out", URL),
    "interpolate": (
        *("--workdir", "RUN", "--start", "a.png", "--end", "b.png"),
        *("--out", f"{URL}.gif"),
    ),
    "evaluate": ("--workdir", URL),
    "evaluate to": ("--workdir", "RUN", "--npz", f"{URL}.npz"),
    "fid": ("a", "b", "--json", URL),
    "fid picture": ("a", "b", "--picture", f"{URL}.png"),
    "fid features": ("a", "b", "--save-features", f"{URL}.npz"),
    "fid statistics": ("a", "b", "--save-statistics", f"{URL}.npz"),
    "prepare": ("--source", "folder:a", "--out", URL),
    "import": ("a.safetensors", "--workdir", URL),
    "export": ("--workdir", "RUN", "--out", f"{URL}.safetensors"),
    "weights": ("inception", "--from", "a.pth", "--out", f"{URL}.safetensors"),
    "compile": ("--config", "TINY", "--topology", "v5e:1x1", "--json", URL),
    "compile hlo": ("--config", "TINY", "--topology", "v5e:1x1", "--hlo", URL),
    "coordinates": ("--config", "TINY", "--widths", "32,64", "--out", URL),
    "flops": ("--config", "TINY", "--json", URL),
    "report": ("--workdir", URL),
    "inspect": ("folder:a", "--out", URL),
    "curate": ("--source", "folder:a", "--out", f"{URL}.jsonl"),
    "curate page": (
        *("--source", "folder:a", "--out", "a.jsonl"),
        *("--report", URL),
    ),
    "fit": ("--csv", "a.csv", "--out", URL),
    "sweep plan": ("--config", "a.py", "--out", URL),
    "sweep submit": (URL, "--config", "a.py"),
    "sweep status": (URL,),
    "sweep collect": ("SWEEP", "--out", f"{URL}.csv"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_no_command_writes_to_a_url(
    command, tiny_spec, tmp_path, monkeypatch, name
):
    monkeypatch.chdir(tmp_path)
    words = name.split() if name.startswith("sweep") else name.split()[:1]
    arguments = [tiny_spec if a == "TINY" else a for a in COMMANDS[name]]
    ended = command(*words, *arguments)
    assert ended.code == 1, ended.err
    assert len(ended.err.splitlines()) == 1
    assert ended.err.startswith(f"error: {URL}")
    assert "is a URL" in ended.err
    assert not list(tmp_path.iterdir())


def test_every_option_that_names_an_output_is_known():
    """A new one is either in `_LOCAL`, or none of a file or folder."""
    from i2i_prior.commands.common import _LOCAL

    words = ("director", "folder", "write", "keep", "OUT", "DIR")
    inputs = {"file", "config", "source", "csv", "reference", "filter"}

    def options(parser):
        for action in parser._actions:
            choices = action.choices
            if isinstance(action, argparse._SubParsersAction):
                for below in choices.values():
                    yield from options(below)
            elif action.nargs != 0 and action.type is None and not choices:
                yield action

    found = {
        option.dest
        for option in options(build_parser())
        if any(w in f"{option.metavar} {option.help}" for w in words)
    }
    assert {"workdir", "out", "json", "sweep", "report"} <= found
    assert found - inputs <= set(_LOCAL), found


def test_python_is_refused_it_too(tiny, tmp_path, monkeypatch):
    from i2i_prior import Prior
    from i2i_prior.checkpoint.checkpointer import Checkpoints
    from i2i_prior.interop.files.state_dicts import write_state_dict
    from i2i_prior.train import train

    monkeypatch.chdir(tmp_path)
    for place in (URL, Path(URL)):
        for call in (
            lambda place=place: train(tiny(), place),
            lambda place=place: Prior.load(place),
            lambda place=place: Checkpoints(place),
            lambda place=place: write_bytes(place, b""),
            lambda place=place: write_state_dict(f"{place}/x.safetensors", {}),
        ):
            with pytest.raises(UserError, match="is a URL"):
                call()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("place", "path"),
    [
        ("runs/a", "runs/a"),
        ("/runs/a:b/c", "/runs/a:b/c"),
        ("file:///runs/a", "/runs/a"),
        ("local:///runs/a", "/runs/a"),
        (Path("file:///runs/a"), "/runs/a"),
        ("C:/runs", "C:/runs"),
    ],
)
def test_paths_of_this_machine(place, path):
    assert local_path(place) == Path(path)


@pytest.mark.parametrize(
    "url", ["gs://b", "S3://b/x", "http://h/x", "az://c/x", "hdfs:///x"]
)
def test_urls_of_other_places(url):
    with pytest.raises(UserError, match="is a URL"):
        local_path(url)
