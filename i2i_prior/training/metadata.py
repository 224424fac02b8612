"""Metadata of a run, for metadata.json and its first lines."""

import dataclasses
import importlib.metadata
import platform
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from i2i_prior.config import config_hash
from i2i_prior.data.record import Source
from i2i_prior.flops.cost import run_cost, step_flops
from i2i_prior.version import __version__

PACKAGES = (
    *("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain"),
    *("ml-collections", "numpy", "pillow", "simplejpeg"),
    *("opencv-python-headless", "array-record"),
)


def versions() -> dict[str, str]:
    """Installed versions of the packages that a run's results depend on."""
    found = {"i2i_prior": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


def collect(config: ConfigDict, program: Any, source: Source) -> dict[str, Any]:
    """Collects versions, devices, mesh, sizes and the data's fingerprint."""
    device = jax.devices()[0]
    rows = module_rows(program.abstract.params, program.abstract.frozen)
    parameters = sum(row.parameters for row in rows)
    trained = sum(row.trained for row in rows)
    return {
        "name": config.name,
        "config_hash": config_hash(config),
        "versions": versions(),
        "platform": device.platform,
        "device_kind": device.device_kind,
        "devices": jax.device_count(),
        "hosts": jax.process_count(),
        "mesh": dict(program.mesh.shape),
        "parameters": parameters,
        "trained_parameters": trained,
        "frozen_parameters": parameters - trained,
        "modules": [dataclasses.asdict(row) for row in rows],
        "flops_per_step": step_flops(config).model,
        "cost": dataclasses.asdict(run_cost(config)),
        "data_source": config.data.source,
        "data_examples": len(source),
        "data_fingerprint": source.fingerprint(),
    }


@dataclasses.dataclass(frozen=True)
class ModuleRow:
    """Parameter arrays of a module, numbers in them, and trained ones."""

    module: str
    arrays: int
    parameters: int
    trained: int


def module_rows(
    params: Mapping[str, Any], frozen: Mapping[str, Any]
) -> list[ModuleRow]:
    """Sizes of the modules in the first two levels of parameter names."""
    sizes: dict[str, np.ndarray] = {}
    for name, array in sorted({**params, **frozen}.items()):
        size = int(np.prod(array.shape))
        module = "/".join(name.split("/")[:-1][:2])
        row = np.array([1, size, size * (name in params)])
        sizes[module] = sizes.get(module, 0) + row
    return [ModuleRow(name, *row.tolist()) for name, row in sizes.items()]


def first_lines(config: ConfigDict, facts: dict[str, Any], origin: str) -> str:
    """Lines to print before the first step: sizes, modules, machine.

    `facts` are those of `collect`, `origin` that of `restore_or_init`.
    """
    from clu.parameter_overview import make_table

    mesh = " x ".join(f"{name} {size}" for name, size in facts["mesh"].items())
    return (
        f"{config.name}: {facts['parameters'] / 1e6:.1f}M parameters "
        f"({facts['trained_parameters'] / 1e6:.1f}M trained), "
        f"{facts['flops_per_step']:.3g} FLOPs a step, "
        f"{facts['data_examples']} images of {facts['data_source']}\n"
        f"{make_table([ModuleRow(**row) for row in facts['modules']])}\n"
        f"{facts['devices']} x {facts['device_kind']}, mesh {mesh}; {origin}"
    )
