"""What a run is made of and runs on: metadata.json and the first line."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import platform
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from i2i_prior.config import config_hash
from i2i_prior.data.sources import Source
from i2i_prior.flops.cost import run_cost
from i2i_prior.flops.step_flops import step_flops
from i2i_prior.version import __version__

PACKAGES = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "grain",
    "ml-collections",
    "numpy",
    "pillow",
    "simplejpeg",
    "opencv-python-headless",
    "array-record",
)


def versions() -> dict[str, str]:
    """Installed versions of the packages that decide a run's numbers."""
    found = {"i2i_prior": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


def collect(config: ConfigDict, program: Any, source: Source) -> dict[str, Any]:
    """Versions, devices, mesh, sizes and the data's fingerprint."""
    device = jax.devices()[0]
    count = {
        part: int(sum(np.prod(a.shape) for a in arrays.values()))
        for part, arrays in (
            ("trained", program.abstract.params),
            ("frozen", program.abstract.frozen),
        )
    }
    return {
        "name": config.name,
        "config_hash": config_hash(config),
        "versions": versions(),
        "platform": device.platform,
        "device_kind": device.device_kind,
        "devices": jax.device_count(),
        "hosts": jax.process_count(),
        "mesh": dict(program.mesh.shape),
        "parameters": count["trained"] + count["frozen"],
        "trained_parameters": count["trained"],
        "frozen_parameters": count["frozen"],
        "flops_per_step": step_flops(config).model,
        "cost": dataclasses.asdict(run_cost(config)),
        "data_source": config.data.source,
        "data_examples": len(source),
        "data_fingerprint": source.fingerprint(),
    }


def headline(config: ConfigDict, facts: dict[str, Any], origin: str) -> str:
    """What a person wants to know before the first step, in two lines."""
    mesh = " x ".join(f"{name} {size}" for name, size in facts["mesh"].items())
    return (
        f"{config.name}: {facts['parameters'] / 1e6:.1f}M parameters "
        f"({facts['trained_parameters'] / 1e6:.1f}M trained), "
        f"{facts['flops_per_step']:.3g} FLOPs a step, "
        f"{facts['data_examples']} images of {facts['data_source']}\n"
        f"{facts['devices']} x {facts['device_kind']}, mesh {mesh}; {origin}"
    )
