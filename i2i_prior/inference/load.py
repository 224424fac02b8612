"""Loading of a prior: its config and parameters.

From a run directory, a file or a folder that `i2i-prior export` wrote, or a
published checkpoint of a known layout.
"""

import math
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from i2i_prior.checkpoint.run_dir import WEIGHTS, load_config
from i2i_prior.errors import UserError
from i2i_prior.interop import native
from i2i_prior.interop.import_checkpoint import Loaded, import_file
from i2i_prior.interop.load_frozen import add_autoencoder, add_encoder
from i2i_prior.interop.torch_folder import read_torch_folder
from i2i_prior.io.files import local_path
from i2i_prior.models.functional import Flat
from i2i_prior.parallel.sharding import parameter_shardings
from i2i_prior.tasks.network import parameter_shapes


def load_model(
    path: str | Path,
    *,
    step: int | str | None = None,
    layout: str | None = None,
    weights: str = "ema",
    heads: int | None = None,
    base_size: int | None = None,
    position_scale: float | None = None,
    encoder: str | Path | None = None,
    encoder_heads: int | None = None,
    encoder_family: str | None = None,
    autoencoder: str | Path | None = None,
    autoencoder_kind: str | None = None,
    precision: str | None = None,
) -> Loaded:
    """Loads a prior onto the first device.

    Args:
      path: see the module docstring.
      step: checkpoint of a run, or "best"; the newest when None.
      layout: of a published checkpoint; detected when None.
      weights: "ema" or "raw", of files that hold both.
      heads, base_size, position_scale: properties that shapes do not imply,
        see `interop.layouts.dit_detection.implied_config`.
      encoder: published image encoder to embed images with.
      encoder_heads, encoder_family: properties that its file does not imply.
      autoencoder: published autoencoder of the latents, a file or folder, or
        `ENCODER,DECODER`.
      autoencoder_kind: sd, sdxl, ..., where its file does not imply it.
      precision: of computation, a name of `models.precision.PRECISIONS`; the
        run's own, and float32 for a published checkpoint, where None.

    Raises:
      UserError: where there is no model, or it does not fit together.
    """
    path = local_path(path)
    if not path.exists():
        raise UserError(f"no file or folder {path}; give a run or weights")
    if weights not in ("ema", "raw"):
        raise UserError(f"weights {weights!r} is unknown; choose ema or raw")
    if path.is_file() and native.is_native(path) and layout is None:
        parameters, config = native.read(path)
        loaded = Loaded(config, parameters, layout="native")
    elif (path / "i2i_prior_torch.py").exists() and layout is None:
        parameters, config = read_torch_folder(path)
        loaded = Loaded(config, parameters, layout="torch")
    elif path.is_file() or _holds_weights(path):
        loaded = import_file(
            path,
            layout=layout,
            weights=weights,
            heads=heads,
            base_size=base_size,
            position_scale=position_scale,
        )
    else:
        loaded = load_run(path, step, weights)
    if precision is not None:
        loaded.config.model.precision = precision
    config, added = loaded.config, []
    if encoder is not None:
        added.append(
            add_encoder(config, encoder, encoder_heads, encoder_family)
        )
    if autoencoder is not None:
        added.append(add_autoencoder(config, autoencoder, autoencoder_kind))
    for parameters, notes in added:
        loaded.parameters |= parameters
        loaded.notes += notes
    _check(loaded, path)
    return loaded


def _holds_weights(path: Path) -> bool:
    """Returns True for a folder of published weights that is no run's."""
    patterns = ("*.safetensors", "*.index.json", "*.bin")
    ours = (path / "checkpoints").exists() or (path / WEIGHTS).exists()
    return not ours and any(
        file for pattern in patterns for file in path.glob(pattern)
    )


def load_run(
    path: str | Path,
    step: int | str | None = None,
    weights: str = "ema",
    mesh: Mesh | None = None,
) -> Loaded:
    """Loads a checkpoint of a run directory; arguments as `load_model`.

    Parameters are sharded over the mesh, or on the first device. UserError
    where there is no such checkpoint.
    """
    from i2i_prior.checkpoint.restore import load_parameters

    path = Path(path)
    config = load_config(path)
    shapes = parameter_shapes(config)
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shardings = parameter_shardings(shapes, mesh) if mesh else {}
    abstract = {
        name: jax.ShapeDtypeStruct(
            shape.shape, shape.dtype, sharding=shardings.get(name, device)
        )
        for name, shape in shapes.items()
    }
    parameters, found = load_parameters(path, abstract, step, weights)
    return Loaded(config, parameters, found)


def _check(loaded: Loaded, path: Path) -> None:
    """Checks names and shapes, then moves the arrays to the device."""
    shapes, parameters = parameter_shapes(loaded.config), loaded.parameters
    wrong = [
        name
        for name, shape in shapes.items()
        if name not in parameters or parameters[name].shape != shape.shape
    ]
    wrong += [name for name in parameters if name not in shapes]
    if wrong:
        raise UserError(
            f"{path} does not hold this model: {len(wrong)} arrays are "
            f"missing, misshapen or unknown ({', '.join(wrong[:3])})"
        )
    for name in list(parameters):
        # One at a time, and waited for: until a copy is done its source
        # stays in memory too, and models are large.
        parameters[name] = jnp.asarray(parameters[name]).block_until_ready()


def count_parameters(parameters: Flat, config: ConfigDict) -> int:
    """Total size of the arrays, without an untrained null token."""
    trained = config.conditioner.null == "trained"
    return sum(
        math.prod(array.shape)
        for name, array in parameters.items()
        if trained or name != "conditioner/null"
    )
