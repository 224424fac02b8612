"""`i2i-prior compile`: its mistakes, and one real TPU program."""

from __future__ import annotations

import importlib.util
import json
import sys
from types import SimpleNamespace

import pytest

from i2i_prior.aot.child import compile_in_child
from i2i_prior.aot.compile import (
    abstract_batch,
    assume_weights,
    memory_bytes,
    refusal,
)
from i2i_prior.aot.estimate import auto
from i2i_prior.aot.report import candidate_table, report
from i2i_prior.aot.topologies import check_compiler, parse_topology
from i2i_prior.commands.compile import mesh_overrides
from i2i_prior.errors import UserError
from i2i_prior.parallel import mesh as meshes
from i2i_prior.training.setup import to_device


def _needs(topology: str):
    """A machine whose compiler may not be installed."""
    try:
        check_compiler(parse_topology(topology))
        missing, why = False, ""
    except UserError as error:
        missing, why = True, str(error)
    return pytest.param(topology, marks=pytest.mark.skipif(missing, reason=why))


def test_the_batch_is_training_s(tiny, batches, programs):
    """Another shape, dtype or sharding would compile a second program."""
    mesh = programs["replica"].mesh
    abstract = abstract_batch(tiny(), mesh)
    real = to_device(batches[0], meshes.batch_sharding(mesh))
    assert abstract.keys() == real.keys()
    for name, array in real.items():
        assert abstract[name].shape == array.shape
        assert abstract[name].dtype == array.dtype
        assert abstract[name].sharding == array.sharding


def test_weights_need_not_be_there(tiny):
    config = tiny("encoder.kind=frozen", "autoencoder.kind=sd")
    assume_weights(config)
    assert config.encoder.weights == config.autoencoder.weights == "random"
    given = tiny("encoder.kind=frozen", "encoder.weights=dino.pth")
    assume_weights(given)
    assert given.encoder.weights == "dino.pth"


def test_memory_is_everything_that_lives_at_once():
    stats = SimpleNamespace(
        argument_size_in_bytes=100,
        output_size_in_bytes=70,
        alias_size_in_bytes=60,
        temp_size_in_bytes=1000,
        generated_code_size_in_bytes=5,
    )
    assert memory_bytes(stats) == {
        "peak": 1115,
        "arguments": 100,
        "results": 10,
        "temporaries": 1000,
        "program": 5,
    }


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (
            "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory "
            "required for HLO temporaries (384.50G) exceeds available HBM "
            "(15.75G).",
            "needs 384.50G of 15.75G a chip",
        ),
        (
            "Ran out of memory in memory space hbm. Used 16.77G of 15.48G hbm.",
            "needs 16.77G of 15.48G a chip",
        ),
        ("INTERNAL: Mosaic failed\n to  compile", "INTERNAL: Mosaic failed to"),
    ],
)
def test_refusals_are_one_sentence(message, said):
    assert said in refusal(message)
    assert "\n" not in refusal(message)


def test_meshes_on_the_command_line():
    assert mesh_overrides("fsdp=16, tensor=2") == [
        "mesh.fsdp=16",
        "mesh.tensor=2",
    ]
    assert mesh_overrides(None) == []
    with pytest.raises(UserError, match="axis=size"):
        mesh_overrides("16x2")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--topology", "v5e:3x3"], "has no such shape"),
        (["--topology", "v5e:2x2", "--mesh", "rows=2"], "no field mesh.rows"),
        (
            ["--topology", "v5e:2x2", "--mesh", "fsdp=3"],
            "does not lay out 4 devices",
        ),
        (
            ["--topology", "v5e:2x2", "--json", "nowhere/out.json"],
            "no folder nowhere",
        ),
        (["--topology", "v5e:2x2", "--hlo", "."], ". is a folder"),
        (
            ["--topology", "v5e:2x2", "--auto", "--mesh", "fsdp=4"],
            "leave --mesh out",
        ),
        (
            ["--topology", "v5e:2x2", "--auto", "--config.data.crop=bad"],
            "config field data.crop is 'bad'",
        ),
    ],
)
def test_mistakes(command, tiny_spec, monkeypatch, arguments, said):
    monkeypatch.setattr(
        "i2i_prior.aot.topologies.check_compiler", lambda topology: None
    )
    ended = command("compile", "--config", tiny_spec, *arguments)
    assert ended.code == 1
    assert said in ended.err
    assert "Traceback" not in ended.err


@pytest.mark.parametrize(
    ("topology", "extra"), [("v5e:2x2", "tpu"), ("h100x8", "aot-cuda")]
)
def test_no_compiler(command, tiny_spec, monkeypatch, topology, extra):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    ended = command("compile", "--config", tiny_spec, "--topology", topology)
    assert ended.code == 1
    assert f"pip install 'i2i-prior[{extra}]'" in ended.err


def test_a_result_of_before_does_not_pass_for_this_one(
    command, tiny_spec, tmp_path
):
    out = tmp_path / "out.json"
    out.write_text('{"compiled": true}')
    arguments = "--config", tiny_spec, "--topology", "v5e:3x3", "--json", out
    assert command("compile", *arguments).code == 1
    assert not out.exists()


# Says what is known before it compiles, then the kernel kills it.
KILLED = """#!/bin/sh
cat > "$4" <<END
{"topology": "v5e:2x2", "chips": 4, "compiled": false, "fits": false,
 "reason": "", "flops_per_step": 3.0, "collectives": []}
END
kill -9 $$
"""


def test_a_compiler_that_dies_is_told(tiny, monkeypatch, tmp_path):
    """Out of memory the kernel kills it: a result all the same."""
    program = tmp_path / "python"
    program.write_text(KILLED)
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    result = compile_in_child(tiny(), parse_topology("v5e:2x2"), True)
    assert not result["compiled"]
    assert result["flops_per_step"] == 3.0
    assert "out of this machine's memory, most likely" in result["reason"]
    assert "does not compile" in report(result)


def test_a_compiler_that_does_not_start_is_told(tiny, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(UserError, match=r"v5e:2x2: .* ended with exit code 1"):
        compile_in_child(tiny(), parse_topology("v5e:2x2"), True)


def test_a_search_ends_with_its_best(tiny, monkeypatch, tmp_path):
    """One layout is refused, one does not fit; the compiler is played."""
    asked = []

    def compiled(config, topology, quick, hlo=None, announce=True):
        mesh = tuple(config.mesh.values())
        asked.append((mesh, quick, hlo))
        tried = len({mesh for mesh, *_ in asked})
        if tried == 1:
            raise UserError("not this one")
        fits = tried != 2
        return {
            "fits": fits,
            "reason": "" if fits else "too large",
            "step_seconds_estimate": 0.1 * (2 if asked[2:] == [] else tried),
        }

    monkeypatch.setattr(auto, "compile_in_child", compiled)
    topology = parse_topology("v5e:2x2")
    result = auto.search(tiny(), topology, True, "hlo.txt")
    rows = result["candidates"]
    assert [row["state"] for row in rows][-2:] != ["fits", "fits"]
    assert rows[0]["state"] == "fits"
    assert {row["state"] for row in rows} == {
        "fits",
        "too large",
        "not this one",
    }
    best = tuple(rows[0]["mesh"].values())
    assert asked[-1] == (best, True, "hlo.txt")
    assert all(call[1:] == (True, None) for call in asked[:-1])


@pytest.mark.parametrize("topology", [_needs("v5e:2x2"), _needs("h100x4")])
def test_a_real_program(command, topology, tiny_spec, tmp_path):
    """The whole command, for four chips that are not here."""
    out = tmp_path / "out.json"
    ended = command(
        "compile",
        *("--config", tiny_spec, "--topology", topology, "--quick"),
        *("--mesh", "fsdp=2,tensor=2", "--json", out),
    )
    assert ended.code == 0, ended.err
    result = json.loads(out.read_text())
    assert result["compiled"]
    assert result["fits"]
    mesh = {"replica": 1, "fsdp": 2, "context": 1, "tensor": 2}
    assert result["mesh"] == mesh
    assert 0 < result["peak_bytes_per_chip"] < result["capacity_bytes_per_chip"]
    gathers = [
        row
        for row in result["collectives"]
        if row["kind"] == "all-gather" and row["where"] == "layer loop"
    ]
    assert gathers
    assert all(row["bytes"] > 0 and row["count"] > 0 for row in gathers)
    assert result["whole_parameters_gathered"] == []
    assert result["flops_per_step"] > 0
    assert result["step_seconds_estimate"] > 0
    assert 0 < result["mfu_estimate"] < 1
    assert any("dense bf16 peak" in text for text in result["assumptions"])
    assert f"compiles and fits: tiny on {topology}" in ended.out


@pytest.mark.parametrize("topology", [_needs("v5e:2x2")])
def test_a_program_that_is_too_large(command, topology, tiny_spec, tmp_path):
    """The real compiler's refusal, as a result and one sentence."""
    out = tmp_path / "out.json"
    ended = command(
        "compile",
        *("--config", tiny_spec, "--topology", topology, "--quick"),
        *("--json", out, "--config.data.batch_size=8000000"),
    )
    assert ended.code == 1
    assert "Traceback" not in ended.err
    result = json.loads(out.read_text())
    assert not result["compiled"]
    assert not result["fits"]
    assert result["reason"].startswith("out of memory: needs ")
    assert result["peak_bytes_per_chip"] is None
    assert f"does not compile for {topology}" in ended.out


def test_the_table_of_candidates():
    row = {
        "mesh": {"replica": 2, "fsdp": 8, "context": 1, "tensor": 1},
        "remat": "full",
        "accumulate": 2,
        "batch_per_shard": 4.0,
        "peak_bytes_per_chip": 2**30,
        "step_seconds_estimate": 0.5,
        "images_per_second_estimate": 128.0,
        "mfu_estimate": 0.5,
        "state": "fits",
    }
    refused = dict.fromkeys(row) | {
        "mesh": row["mesh"],
        "remat": "none",
        "accumulate": 1,
        "batch_per_shard": 8.0,
        "state": "out of memory",
    }
    lines = candidate_table([row, refused]).splitlines()
    assert "2 x 8 x 1 x 1" in lines[1]
    assert lines[1].endswith("50.0%  fits")
    assert lines[2].endswith("out of memory")
