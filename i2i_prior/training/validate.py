"""Config mistakes, found before anything is built, one sentence each."""

from collections.abc import Iterable

from ml_collections import ConfigDict

from i2i_prior.checkpoint.stochastic_rounding import STATE_DTYPES
from i2i_prior.config import check_fields, flatten
from i2i_prior.diffusion.objectives import DISTRIBUTIONS, WEIGHTINGS
from i2i_prior.diffusion.paths import PATHS
from i2i_prior.diffusion.predictions import PREDICTIONS
from i2i_prior.diffusion.solvers import SOLVERS
from i2i_prior.errors import UserError
from i2i_prior.evaluation.eval_spec import parse_metrics
from i2i_prior.evaluation.features.colour_texture import load_features
from i2i_prior.evaluation.features.presets import PRESETS
from i2i_prior.evaluation.features.registry import NETWORKS
from i2i_prior.evaluation.metrics import lower_is_better
from i2i_prior.models.autoencoder import AUTOENCODERS
from i2i_prior.models.dit_config import token_count
from i2i_prior.models.encoder_families import FAMILIES
from i2i_prior.models.precision import PRECISIONS
from i2i_prior.parallel.mesh import mesh_shape
from i2i_prior.tasks.registry import TASKS
from i2i_prior.tasks.resolve import Resolved, resolve

# Fields whose values are the names of a registry.
_REGISTRIES: dict[str, Iterable[str]] = {
    "task": TASKS,
    "autoencoder.kind": AUTOENCODERS,
    "model.precision": PRECISIONS,
    "encoder.family": FAMILIES,
    "diffusion.path": PATHS,
    "diffusion.prediction": PREDICTIONS,
    "diffusion.weighting": WEIGHTINGS,
    "diffusion.time": DISTRIBUTIONS,
    "optim.moment_dtype": STATE_DTYPES,
    "train.ema_dtype": STATE_DTYPES,
    "sample.solver": SOLVERS,
    "evaluate.preset": PRESETS,
}


def validate(config: ConfigDict, devices: int) -> None:
    """Raises UserError at the first mistake of a config for a device count.

    What a component can check by itself (unknown block, width and heads,
    patch and size) it checks when it is built.
    """
    check_fields(config)
    flat = flatten(config)
    for name, known in _REGISTRIES.items():
        if flat[name] not in known:
            raise UserError(
                f"config field {name} is {flat[name]!r}; choose "
                f"{' or '.join(known)}"
            )
    if 0 < config.train.loss_spike <= 1:
        raise UserError(
            f"config field train.loss_spike is {config.train.loss_spike}; it "
            "is a multiple of the usual loss: more than 1, or 0 for off"
        )
    TASKS[config.task].check(config)
    _validate_evaluation(config)
    _validate_cached(config)
    shapes = resolve(config)
    _validate_buckets(config, shapes)
    _validate_condition(config, shapes)
    _validate_networks(config, shapes)
    _validate_batch(config, shapes, devices)


def _validate_evaluation(config: ConfigDict) -> None:
    section = config.evaluate
    parse_metrics(section.metrics)
    if section.num_samples % section.per_condition:
        raise UserError(
            f"evaluate.num_samples {section.num_samples} does not divide into "
            f"evaluate.per_condition {section.per_condition}; choose a multiple"
        )
    if section.best_metric:
        lower_is_better(section.best_metric)
        if not config.train.evaluate_every:
            raise UserError(
                f"evaluate.best_metric {section.best_metric} is never "
                "evaluated; set train.evaluate_every, or leave it out"
            )
    # Weights of a network are opened by the first evaluation, at step 0.
    if config.train.evaluate_every and section.features not in NETWORKS:
        load_features(section.features)


def _validate_batch(config: ConfigDict, shapes: Resolved, devices: int) -> None:
    batch, accumulate = config.data.batch_size, config.train.accumulate
    if batch % accumulate:
        raise UserError(
            f"data.batch_size {batch} does not split into train.accumulate "
            f"{accumulate} micro-batches"
        )
    mesh = mesh_shape(**config.mesh, devices=devices)
    replica, fsdp, context, tensor = mesh
    shards = replica * fsdp
    if (batch // accumulate) % shards:
        raise UserError(
            f"data.batch_size {batch} over train.accumulate {accumulate} "
            f"does not divide over {shards} data-parallel devices; choose a "
            f"multiple of {shards * accumulate}"
        )
    if config.model.heads % tensor:
        raise UserError(
            f"mesh.tensor {tensor} does not divide model.heads "
            f"{config.model.heads}; choose a divisor of it"
        )
    tokens = token_count(shapes.dit)
    if tokens % (context * tensor):
        raise UserError(
            f"mesh.context {context} x mesh.tensor {tensor} does not divide "
            f"the {tokens} tokens of an image; choose smaller ones"
        )


def _validate_cached(config: ConfigDict) -> None:
    kind, validation = config.encoder.kind, config.validation
    if not config.data.cached:
        if kind == "none" and config.conditioner.tokens_from != "none":
            raise UserError(
                "encoder.kind is none, but images need an encoder; choose "
                "joint or frozen, or data.cached=true with prepared embeddings"
            )
        return
    if validation.every and not validation.source.startswith("arrayrecord:"):
        raise UserError(
            "validation.every with data.cached needs held-out images that are "
            "prepared, too; set validation.source to arrayrecord:FOLDER, or "
            "validation.every=0"
        )
    if kind == "joint":
        raise UserError(
            "data.cached reads prepared embeddings, which an encoder that is "
            "trained along does not make; set encoder.kind to frozen or none"
        )
    if config.autoencoder.kind == "pixels":
        raise UserError(
            "data.cached reads prepared latents; set autoencoder.kind to what "
            "they were made with"
        )
    for name in ("min_side", "view_flip", "view_jitter"):
        if config.data[name]:
            raise UserError(
                f"data.{name} is for images, which prepared latents are no "
                "more; set it to 0"
            )
    looks = config.train.sample_every or config.train.evaluate_every
    if looks and (kind == "none" or not config.autoencoder.weights):
        raise UserError(
            "train.sample_every and train.evaluate_every draw pictures, which "
            "needs encoder.kind=frozen, encoder.weights and "
            "autoencoder.weights; give them, or set both to 0"
        )


def _validate_buckets(config: ConfigDict, shapes: Resolved) -> None:
    if config.model.size_conditions and not config.data.aspect_buckets:
        raise UserError(
            "model.size_conditions tells the model the size of images, which "
            "all have one; set data.aspect_buckets=true"
        )
    if not config.data.aspect_buckets:
        return
    if config.data.cached:
        raise UserError(
            "data.aspect_buckets needs images, and data.cached reads prepared "
            "squares; set one of them to false"
        )
    step = 16 * shapes.latent.factor * config.model.patch
    if config.data.image_size % step:
        raise UserError(
            f"data.image_size {config.data.image_size} is no multiple of "
            f"{step}, so sizes of other aspect ratios are no whole patches; "
            "choose another, or data.aspect_buckets=false"
        )
    if config.mesh.context * config.mesh.tensor != 1:
        raise UserError(
            "data.aspect_buckets makes images of many token counts, which "
            "mesh.context and mesh.tensor do not divide alike; set both to 1"
        )


def _validate_condition(config: ConfigDict, shapes: Resolved) -> None:
    if shapes.conditioner is None:
        for name in ("noise", "mask_rate"):
            if config.conditioner[name]:
                raise UserError(
                    f"conditioner.{name} is for tokens, and "
                    "conditioner.tokens_from is none; set it to 0"
                )
        if config.encoder.kind != "none":
            raise UserError(
                "conditioner.tokens_from is none, so nothing reads an encoder; "
                "set encoder.kind to none"
            )
        return
    tokens = shapes.conditioner.tokens
    if config.conditioner.tokens_from == "tokens":
        if not config.data.cached:
            raise UserError(
                "conditioner.tokens_from=tokens reads prepared embeddings; set "
                "data.cached=true, or choose cls, patches or pyramid"
            )
        if not config.conditioner.length:
            raise UserError(
                "conditioner.tokens_from=tokens needs conditioner.length, the "
                "number of prepared embeddings of an example"
            )
    if tokens == 1 and not config.model.one_token:
        raise UserError(
            "one condition token makes cross-attention a constant and leaves "
            "its q and k untrained; set conditioner.expand above 1, or "
            "model.one_token=true to keep Lumos' layout knowingly"
        )
    if tokens > 1 and config.model.one_token:
        raise UserError(
            f"model.one_token is set, but the conditioner makes {tokens} "
            "tokens; set model.one_token=false or conditioner.expand=1"
        )
    if tokens == 1 and config.conditioner.mask_rate:
        raise UserError(
            "conditioner.mask_rate needs more than one condition token; set "
            "it to 0 or raise conditioner.expand"
        )
    if config.encoder.view_size % config.encoder.patch:
        raise UserError(
            f"encoder.view_size {config.encoder.view_size} does not split into "
            f"patches of {config.encoder.patch}; change one of them"
        )
    if config.encoder.kind == "frozen" and not config.encoder.weights:
        raise UserError(
            "a frozen encoder needs encoder.weights: a file that `i2i-prior "
            "export --part encoder` wrote, published weights (DINO, DINOv2, "
            "CLIP, ...), or 'random' to say that random features are meant"
        )


def _validate_networks(config: ConfigDict, shapes: Resolved) -> None:
    latents = config.autoencoder.kind != "pixels" and not config.data.cached
    if latents and not config.autoencoder.weights:
        raise UserError(
            f"autoencoder.kind {config.autoencoder.kind} needs "
            "autoencoder.weights: a file or a folder, or 'random' to say that "
            "a random one is meant"
        )
    model, factor = config.model, shapes.latent.factor
    if model.mup_base_width % max(model.width // model.heads, 1):
        raise UserError(
            f"model.mup_base_width {model.mup_base_width} is no multiple of "
            f"the head width {model.width // model.heads}, which muP keeps; "
            "choose one, or change model.heads with model.width"
        )
    if config.data.image_size % (factor * config.model.patch):
        raise UserError(
            f"data.image_size {config.data.image_size} does not split into "
            f"patches of {config.model.patch} latent pixels of "
            f"{factor} image pixels; change one of them"
        )
    if config.diffusion.learn_sigma and config.diffusion.path == "flow":
        raise UserError(
            "diffusion.learn_sigma needs a DDPM path; set it to false or "
            "diffusion.path=ddpm_linear"
        )
