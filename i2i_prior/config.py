"""Every config field with its default, unit and meaning; loading; hashing.

An experiment is a Python file with `get_config(arg="") -> ConfigDict` that
starts from `default_config()`. The ConfigDict is locked and typed: an unknown
field or a value of another type is an error, here in one sentence.
"""

from __future__ import annotations

import ast
import difflib
import hashlib
import importlib.util
import json
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from i2i_prior.errors import UserError

# name, default, meaning with its unit.
FIELDS: tuple[tuple[str, Any, str], ...] = (
    ("name", "run", "what the run is called in reports"),
    ("seed", 0, "seed of parameters, data order and every random draw"),
    # data
    ("data.source", "builtin:photos", "SPEC of the training images"),
    ("data.held_out", "builtin:photos/heldout", "SPEC of evaluation images"),
    ("data.image_size", 256, "side of a training image, pixels"),
    ("data.batch_size", 256, "global batch, examples a step"),
    ("data.crop", "random", "random (resized crop) or center"),
    ("data.min_scale", 0.25, "least share of the area a random crop keeps"),
    ("data.flip", 0.5, "probability of a horizontal flip"),
    ("data.view_min_scale", 0.5, "least share of the crop the encoder sees"),
    ("data.view_flip", 0.0, "probability that the encoder's view is flipped"),
    ("data.view_jitter", 0.0, "colour jitter of the encoder's view, 0 to 1"),
    ("data.min_side", 0, "smaller images count as broken, pixels; 0 upscales"),
    ("data.max_broken", 0.01, "share of unreadable images that ends a run"),
    ("data.threads", 4, "reading threads a host"),
    ("data.workers", 0, "reading processes a host, 0 for threads only"),
    ("data.prefetch", 8, "examples read ahead a thread"),
    # autoencoder
    ("autoencoder.kind", "pixels", "latent space: pixels (identity)"),
    # model: see models.dit.DiTConfig
    ("model.block", "lumos", "block family: lumos or modern"),
    ("model.depth", 28, "layers"),
    ("model.width", 1152, "channels D"),
    ("model.heads", 16, "attention heads"),
    ("model.patch", 2, "side of a patch, latent pixels"),
    ("model.mlp_ratio", 4.0, "hidden width of the MLP over D"),
    ("model.precision", "bfloat16", "float32, bfloat16 or bfloat16_matmul"),
    ("model.remat", "none", "rematerialisation: none, dots or full"),
    ("model.scan_unroll", 1, "layers per scan iteration"),
    ("model.one_token", False, "accept one condition token (no q, k training)"),
    # conditioner: see models.conditioner.ConditionerConfig
    ("conditioner.choice", "cls", "embeddings: cls, patches or pyramid"),
    ("conditioner.expand", 4, "tokens made of each embedding"),
    ("conditioner.null", "trained", "null token: trained or random (fixed)"),
    ("conditioner.normalize", True, "divide embeddings by their L2 norm"),
    ("conditioner.scale", 1.0, "factor after it; 0 means sqrt(width)"),
    ("conditioner.positions", True, "patch and pyramid tokens say where"),
    ("conditioner.drop_rate", 0.1, "share of conditions replaced by the null"),
    ("conditioner.noise", 0.0, "std of embedding noise over embedding RMS"),
    ("conditioner.mask_rate", 0.0, "share of condition tokens masked out"),
    # encoder: see models.vit.ViTConfig
    ("encoder.kind", "joint", "joint (trained along) or frozen"),
    ("encoder.weights", "", "safetensors of a frozen encoder, or 'random'"),
    ("encoder.depth", 12, "layers"),
    ("encoder.width", 768, "channels"),
    ("encoder.heads", 12, "attention heads"),
    ("encoder.patch", 16, "side of a patch, pixels"),
    ("encoder.image_size", 224, "side of the view it sees, pixels"),
    ("encoder.pixels", "symmetric", "values it reads: symmetric or imagenet"),
    # diffusion
    ("diffusion.path", "flow", "ddpm_linear, ddpm_cosine or flow"),
    ("diffusion.prediction", "velocity", "eps, x0, v or velocity"),
    ("diffusion.learn_sigma", False, "learn the posterior variance (DDPM)"),
    ("diffusion.vlb_weight", 1.0, "weight of the VLB term beside the MSE"),
    ("diffusion.weighting", "none", "loss weights: none or min_snr"),
    ("diffusion.time", "logit_normal", "time draw: uniform or logit_normal"),
    ("diffusion.time_mean", 0.0, "mean of the logit-normal"),
    ("diffusion.time_std", 1.0, "std of the logit-normal"),
    ("diffusion.shift", 1.0, "resolution shift of flow times, 1 for none"),
    # optim
    ("optim.learning_rate", 1e-4, "peak learning rate of AdamW"),
    ("optim.warmup_steps", 1000, "steps of linear warm-up"),
    ("optim.schedule", "constant", "after warm-up: constant, cosine, linear"),
    ("optim.final_ratio", 0.0, "last learning rate over the peak"),
    ("optim.beta1", 0.9, "Adam's first decay"),
    ("optim.beta2", 0.999, "Adam's second decay"),
    ("optim.epsilon", 1e-8, "Adam's epsilon"),
    ("optim.weight_decay", 0.0, "decoupled decay, on kernels only"),
    ("optim.clip_norm", 1.0, "global gradient norm limit, 0 for none"),
    # train
    ("train.steps", 400_000, "optimizer updates"),
    ("train.accumulate", 1, "micro-batches a step"),
    ("train.ema_decay", 0.9999, "EMA decay after its warm-up"),
    ("train.log_every", 50, "steps between log lines"),
    ("train.checkpoint_every", 5000, "steps between checkpoints"),
    ("train.checkpoint_keep", 3, "newest checkpoints kept"),
    ("train.sample_every", 5000, "steps between sample grids, 0 for never"),
    ("train.evaluate_every", 0, "steps between evaluations, 0 for never"),
    ("train.init_from", "", "workdir whose EMA parameters to start from"),
    ("train.tensorboard", True, "write TensorBoard events"),
    # sample
    ("sample.solver", "dpmpp_2m", "see diffusion.samplers.SOLVERS"),
    ("sample.steps", 20, "network evaluations"),
    ("sample.guidance", 4.5, "classifier-free guidance scale, 1 for none"),
    ("sample.guidance_low", 0.0, "guide from this time on, 0 to 1"),
    ("sample.guidance_high", 1.0, "guide up to this time, 0 to 1"),
    ("sample.clip", 0.0, "hold x0 in [-clip, clip], 1 for pixels, 0 for none"),
    ("sample.lower_order_final", True, "first-order last step"),
    ("sample.conditions", 8, "held-out images in a sample grid"),
    ("sample.variations", 4, "variations of each"),
    # evaluate
    ("evaluate.num_samples", 256, "generated images"),
    ("evaluate.batch_size", 64, "images generated at once"),
    (
        "evaluate.features",
        "colour_texture",
        "feature set, see evaluation.features",
    ),
    # mesh: product = device count; -1 takes what is left
    ("mesh.replica", 1, "data-parallel copies over slow links"),
    ("mesh.fsdp", -1, "data-parallel shards of the parameters"),
    ("mesh.tensor", 1, "tensor-parallel shards"),
)

# Fields that do not change what is learned; they may differ on resume.
RESUMABLE = frozenset(
    name
    for name, _, _ in FIELDS
    if name.startswith(("mesh.", "sample.", "evaluate."))
) | {
    "name",
    "data.held_out",
    "data.threads",
    "data.workers",
    "data.prefetch",
    "data.max_broken",
    "model.remat",
    "model.scan_unroll",
    "train.steps",
    "train.log_every",
    "train.checkpoint_every",
    "train.checkpoint_keep",
    "train.sample_every",
    "train.evaluate_every",
    "train.tensorboard",
}


def default_config() -> ConfigDict:
    """A locked ConfigDict of every field at its default."""
    config = ConfigDict()
    for name, default, _ in FIELDS:
        node = config
        *parents, leaf = name.split(".")
        for parent in parents:
            if parent not in node:
                node[parent] = ConfigDict()
            node = node[parent]
        node[leaf] = default
    return config.lock()


def parse_arg(arg: str, **defaults: Any) -> ConfigDict:
    """Reads the part after the colon in `file.py:res=512,name=x`.

    Args:
      arg: comma-separated key=value pairs; a bare key means true.
      **defaults: the known keys; a value takes its default's type.

    Raises:
      UserError: for an unknown key or a value of another type.
    """
    values = ConfigDict(defaults)
    for pair in filter(None, arg.split(",")):
        key, _, text = pair.partition("=")
        if key not in defaults:
            raise UserError(
                f"config argument {key!r} is unknown; this file knows "
                f"{', '.join(defaults) or 'none'}"
            )
        values[key] = _typed(f"argument {key}", text or "True", defaults[key])
    return values


def load_config(spec: str, overrides: list[str] | None = None) -> ConfigDict:
    """Runs the config file and applies `path.to.field=value` overrides.

    Args:
      spec: FILE.py or FILE.py:ARG.
      overrides: as `optim.learning_rate=1e-4`.

    Raises:
      UserError: for a missing file, an unknown field or a wrong type.
    """
    path, _, arg = spec.partition(".py:")
    file = Path(path if path.endswith(".py") else path + ".py")
    if not file.is_file():
        raise UserError(
            f"no config file {file}; give a path like configs/quickstart.py"
        )
    module_spec = importlib.util.spec_from_file_location("config_file", file)
    assert module_spec is not None
    assert module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    try:
        module_spec.loader.exec_module(module)
        config = module.get_config(arg)
        if not isinstance(config, ConfigDict):
            raise TypeError("get_config returned no ConfigDict")
        flatten(config)
    except UserError:
        raise
    except Exception as error:  # the file is a program: anything may be wrong
        first = " ".join(str(error).split())
        raise UserError(
            f"config file {file}: {type(error).__name__}: {first[:300]}"
        ) from error
    for override in overrides or []:
        name, equals, text = override.partition("=")
        if not equals:
            raise UserError(f"override --config.{name} needs =value")
        set_field(config, name, text)
    return config


def set_field(config: ConfigDict, name: str, text: str) -> None:
    """Sets one dotted field from text, in the type of its default."""
    known = dict((n, d) for n, d, _ in FIELDS)
    if name not in known:
        close = difflib.get_close_matches(name, known, 1, 0.5)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise UserError(f"config has no field {name}{hint}")
    node = config
    *parents, leaf = name.split(".")
    for parent in parents:
        node = node[parent]
    node[leaf] = _typed(f"field {name}", text, known[name])


def _typed(what: str, text: str, default: Any) -> Any:
    if isinstance(default, str):
        return text
    try:
        value = ast.literal_eval(
            text.strip().capitalize()
            if text.lower() in ("true", "false")
            else text.strip()
        )
    except (ValueError, SyntaxError):
        value = text
    kind = type(default)
    if kind is float and type(value) is int:
        value = float(value)
    if kind is int and type(value) is float and value.is_integer():
        value = int(value)  # 1e5 steps
    if type(value) is not kind:
        raise UserError(
            f"config {what} takes {_article(kind.__name__)}, not {text!r}"
        )
    return value


def _article(kind: str) -> str:
    return {"int": "an integer", "float": "a number", "bool": "true or false"}[
        kind
    ]


def flatten(config: ConfigDict) -> dict[str, Any]:
    """Dotted names to values, in the order of `FIELDS`."""
    flat = {}
    for name, _, _ in FIELDS:
        node = config
        for part in name.split("."):
            node = node[part]
        flat[name] = node
    return flat


def config_hash(config: ConfigDict) -> str:
    """12 hex digits over every field that shapes what is learned."""
    shaping = {k: v for k, v in flatten(config).items() if k not in RESUMABLE}
    text = json.dumps(shaping, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def from_flat(flat: dict[str, Any]) -> ConfigDict:
    """The inverse of `flatten`, for config.json; unknown names are errors."""
    config = default_config()
    for name, value in flat.items():
        set_field(config, name, str(value))
    return config


def explain(config: ConfigDict) -> str:
    """One line a field: name, value, meaning."""
    values = flatten(config)
    return "\n".join(
        f"{name:28} {values[name]!r:28} {meaning}"
        for name, _, meaning in FIELDS
    )
