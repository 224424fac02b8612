"""Compilation of a training step for a machine that is not here.

`python -m i2i_prior.aot.compile REQUEST.json RESULT.json` is the child
process of `i2i-prior compile`: what libtpu and XLA read from the environment
has to be there before JAX is imported, and a compiler that runs out of memory
takes nothing else with it.
"""

import importlib.metadata
import json
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from i2i_prior.aot.estimate import collectives, hlo, roofline
from i2i_prior.aot.estimate.hbm_traffic import count_traffic
from i2i_prior.aot.topologies import (
    Topology,
    coordinates,
    find_devices,
    parse_topology,
)
from i2i_prior.config import config_hash, from_flat
from i2i_prior.errors import UserError
from i2i_prior.flops.cost import step_flops
from i2i_prior.parallel import mesh as meshes
from i2i_prior.tasks.inputs import example_spec
from i2i_prior.tasks.resolve import resolve
from i2i_prior.training.setup import Program, build
from i2i_prior.training.validate import validate

# XLA's own scale, -1 to 1. On TPU a third of the compile time (measured), for
# the same collectives and memory within a percent; but nothing is kept in
# on-chip memory, so that the estimated HBM traffic is another.
LOW_EFFORT = {"exec_time_optimization_effort": -1.0}
REMEDY = (
    "use fewer images a chip (train.accumulate), model.remat=full, or more "
    "fsdp, context or tensor shards"
)


def assume_weights(config: ConfigDict) -> None:
    """Sets weight files that are not given to random: only shapes count."""
    if config.encoder.kind == "frozen" and not config.encoder.weights:
        config.encoder.weights = "random"
    if config.autoencoder.kind != "pixels" and not config.autoencoder.weights:
        config.autoencoder.weights = "random"


def abstract_batch(config: ConfigDict, mesh: Mesh) -> dict[str, Any]:
    """Shapes of `program.to_device`'s result, in the same sharding."""
    sharding, images = meshes.batch_sharding(mesh), config.data.batch_size
    return {
        name: jax.ShapeDtypeStruct(
            (images, *one.shape), one.dtype, sharding=sharding
        )
        for name, one in example_spec(config, resolve(config)).items()
    }


def compile_ahead(
    config: ConfigDict,
    topology: Topology,
    low_effort: bool,
    hlo_file: str | None,
    early: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    """Compiles the step; nothing is allocated, no data source is opened.

    Args:
      config: any; weight files need not be there.
      topology: the machine.
      low_effort: compile faster and a little worse.
      hlo_file: for XLA's optimized program as text, if any.
      early: gets what is known before the compiler runs, which may take this
        process with it.

    Returns:
      plain values, as `i2i-prior compile --json` writes them.

    Raises:
      UserError: where config, mesh and topology do not fit together.
    """
    assume_weights(config)
    devices = find_devices(topology)
    validate(config, len(devices))
    try:
        mesh = meshes.make_mesh(**config.mesh, devices=devices)
    except (NotImplementedError, ValueError) as error:
        raise UserError(
            f"mesh {dict(config.mesh)} cannot be laid on {topology.text}: "
            f"{_first_sentence(str(error))}"
        ) from error
    program = build(config, mesh)
    result = _header(config, topology, program)
    result["low_effort"] = low_effort
    early(result)
    began = time.monotonic()
    lowered = program.step.lower(program.abstract, abstract_batch(config, mesh))
    result["trace_seconds"] = time.monotonic() - began
    began, cpu = time.monotonic(), time.process_time()
    try:
        compiled = lowered.compile(LOW_EFFORT if low_effort else None)
    except jax.errors.JaxRuntimeError as error:
        result["reason"] = refusal(str(error))
        return result
    result["compile_seconds"] = time.monotonic() - began
    result["compile_cpu_seconds"] = time.process_time() - cpu
    if hlo_file:
        Path(hlo_file).write_text(compiled.as_text())
    return result | examine(compiled, config, topology, program)


def _header(
    config: ConfigDict, topology: Topology, program: Program
) -> dict[str, Any]:
    """Fields of the result that are known before the compiler runs."""
    flops = step_flops(config)
    shards, images = program.mesh.shape, config.data.batch_size
    rows = shards["replica"] * shards["fsdp"] * config.train.accumulate
    compiler = (
        "libtpu" if topology.chip.platform == "tpu" else "jax-cuda12-pjrt"
    )
    packages = "jax", "jaxlib", compiler
    return {
        "name": config.name,
        "config_hash": config_hash(config),
        "topology": topology.text,
        "chips": topology.chips,
        "mesh": dict(shards),
        "batch_size": images,
        "accumulate": config.train.accumulate,
        "batch_per_shard": images / rows,
        "remat": config.model.remat,
        "trained_parameters": _count(program.abstract.params),
        "frozen_parameters": _count(program.abstract.frozen),
        "compiled": False,
        "fits": False,
        "reason": "",
        "peak_bytes_per_chip": None,
        "capacity_bytes_per_chip": topology.chip.usable_memory,
        "flops_per_step": flops.model,
        "flops_per_step_prior": flops.prior,
        "flops_per_step_autoencoder": flops.autoencoder,
        "flops_per_step_recomputed": flops.recomputed,
        "collectives": [],
        "step_seconds_estimate": None,
        "mfu_estimate": None,
        "assumptions": roofline.assumptions(topology, *roofline.widths(config)),
        "versions": {n: importlib.metadata.version(n) for n in packages},
    }


def _count(arrays: dict[str, Any]) -> int:
    return sum(array.size for array in arrays.values())


def examine(
    compiled: Any, config: ConfigDict, topology: Topology, program: Program
) -> dict[str, Any]:
    """Memory, collectives and the estimate of a compiled step."""
    memory = memory_bytes(compiled.memory_analysis())
    capacity = topology.chip.usable_memory
    fits = memory["peak"] <= capacity
    parsed = hlo.parse(compiled.as_text())
    sizes = dict(program.mesh.shape)
    found = collectives.find_collectives(parsed, sizes, config.train.accumulate)
    places = coordinates(topology, program.mesh.devices.ravel())
    flops = step_flops(config)
    padded = (roofline.padding(topology, w) for w in roofline.widths(config))
    line = roofline.estimate(
        topology, flops.executed(*padded), count_traffic(parsed), found, places
    )
    peak = topology.chips * topology.chip.flops * line.seconds
    return {
        "compiled": True,
        "fits": fits,
        "reason": "" if fits else too_large(memory["peak"], capacity),
        "peak_bytes_per_chip": memory.pop("peak"),
        "memory": memory,
        "collectives": collectives.summary(found),
        "whole_parameters_gathered": collectives.whole_parameters(
            found, _stacked(program), sizes["tensor"]
        ),
        "roofline": line.as_dict(),
        "step_seconds_estimate": line.seconds,
        "images_per_second_estimate": config.data.batch_size / line.seconds,
        "mfu_estimate": flops.model / peak,
        "mfu_estimate_prior": flops.prior / peak,
    }


def memory_bytes(stats: Any) -> dict[str, int]:
    """Peak HBM of one chip and its parts, from XLA's buffer assignment.

    XLA lays temporaries into one arena that lives as long as the step, so
    the peak is the sum of arguments, results that do not take an argument's
    place, that arena, and the program itself. (`peak_memory_in_bytes` counts
    on-chip memory of a TPU as well, and leaves out the program.)
    """
    parts = {
        "arguments": stats.argument_size_in_bytes,
        "results": stats.output_size_in_bytes - stats.alias_size_in_bytes,
        "temporaries": stats.temp_size_in_bytes,
        "program": stats.generated_code_size_in_bytes,
    }
    return {"peak": sum(parts.values()), **parts}


def _stacked(program: Program) -> dict[str, tuple[int, int, int]]:
    """Layer kernels that are sharded: name -> (layers, in, out)."""
    return {
        name: array.shape
        for name, array in program.abstract.params.items()
        if "/blocks/" in name
        and array.ndim == 3
        and not array.sharding.is_fully_replicated
    }


def too_large(needed: int, capacity: int) -> str:
    """Reason and remedy of a program that does not fit, one sentence."""
    return (
        f"needs {needed / 2**30:.2f} GiB of {capacity / 2**30:.2f} GiB a chip; "
        + REMEDY
    )


def refusal(message: str) -> str:
    """Compiler's error as one sentence."""
    size = re.search(
        r"\(([\d.]+[KMGT])\) exceeds.*?\(([\d.]+[KMGT])\)", message
    )
    size = size or re.search(r"Used ([\d.]+[KMGT]) of ([\d.]+[KMGT])", message)
    if size:
        return f"out of memory: needs {size[1]} of {size[2]} a chip; {REMEDY}"
    return f"XLA refuses the program: {_first_sentence(message)}"


def _first_sentence(message: str) -> str:
    return " ".join(message.split())[:300]


def main(request_file: str, result_file: str) -> None:
    """Reads a request, writes a result; both are JSON."""
    request = json.loads(Path(request_file).read_text())

    def answer(result: dict[str, Any]) -> None:
        Path(result_file).write_text(json.dumps(result))

    try:
        result = compile_ahead(
            from_flat(request["config"]),
            parse_topology(request["topology"]),
            request["low_effort"],
            request["hlo"],
            answer,
        )
    except UserError as error:
        result = {"error": str(error)}
    answer(result)


if __name__ == "__main__":
    main(*sys.argv[1:])
