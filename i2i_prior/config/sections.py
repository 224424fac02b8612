"""All config fields, by section, in the order in which a config lists them."""

from i2i_prior.config.options import (
    FIELDS,
    choice,
    host_local,
    option,
    resumable,
    section,
    share,
)

__all__ = ["FIELDS"]


@section("")
class RunSection:
    """Fields of a run beside its sections."""

    name = resumable("run", "what the run is called in reports")
    task = option("i2i", "what is learned, see tasks.registry", added=True)
    seed = option(0, "seed of parameters, data order and every random draw", 0)


@section("data")
class DataSection:
    """Training and held-out images."""

    source = option("builtin:photos", "SPEC of the training images")
    held_out = resumable("builtin:photos/heldout", "SPEC of evaluation images")
    cached = option(False, "the source holds prepared latents, not images")
    embedding = option("", 'which prepared embeddings; "" for the only ones')
    image_size = option(256, "side of a training image, pixels", 1)
    batch_size = option(256, "global batch, examples a step", 1)
    aspect_buckets = option(False, "keep aspect ratios, one a batch")
    pair = option(
        "", 'images of a record, "SOURCE:TARGET" by their ends', added=True
    )
    crop = choice(("random", "center"), "random (resized crop) or center")
    min_scale = option(0.25, "least share of the area a random crop keeps")
    flip = share(0.5, "probability of a horizontal flip")
    view_min_scale = option(0.5, "least share of the crop the encoder sees")
    view_flip = share(0.0, "probability that the encoder's view is flipped")
    view_jitter = option(0.0, "colour jitter of the encoder's view, 0 to 1")
    min_side = option(0, "smaller images count as broken, pixels; 0 upscales")
    max_broken = share(
        0.01, "share of unreadable images that ends a run", resumable=True
    )
    threads = host_local(4, "reading threads a host", 1)
    workers = host_local(0, "reading processes a host, 0 for threads only", 0)
    prefetch = host_local(8, "batches made ahead a host", 1)


@section("autoencoder")
class AutoencoderSection:
    """Latent space."""

    kind = option("pixels", "latent space: pixels, sd, flux2, ...")
    weights = option("", "file or folder of the frozen autoencoder")
    shape = option("", "JSON of a shape that no kind names")


@section("model")
class ModelSection:
    """Diffusion transformer, see `models.dit_config.DiTConfig`."""

    block = option("lumos", "block family: lumos, dit, pixart or modern")
    depth = option(28, "layers", 1)
    width = option(1152, "channels D", 1)
    heads = option(16, "attention heads", 1)
    patch = option(2, "side of a patch, latent pixels", 1)
    mlp_ratio = option(4.0, "hidden width of the MLP over D")
    qk_norm = option(False, "normed queries and keys in self-attention")
    classes = option(0, "class labels through the pooled door, 0 for none")
    size_conditions = option(False, "image size and aspect as conditions")
    base_size = option(0, "tokens a side positions count in, 0: the grid's")
    position_scale = option(1.0, "division of the positions (lewei_scale)")
    mup_base_width = option(
        0, "width whose start and rates muP keeps, 0: no", 0
    )
    precision = option("bfloat16", "float32, bfloat16 or bfloat16_matmul")
    remat = resumable("none", "recompute: none, dots, hidden, attention, full")
    attention = resumable(
        "auto", "auto, batched (CPU), xla, cudnn (GPU) or splash (TPU)"
    )
    scan_unroll = resumable(1, "layers per scan iteration", 1)
    one_token = option(False, "accept one condition token (no q, k training)")


@section("conditioner")
class ConditionerSection:
    """Condition tokens, see `models.conditioner.ConditionerConfig`."""

    tokens_from = choice(
        ("cls", "patches", "pyramid", "tokens", "none"),
        "embeddings: cls, patches, pyramid, tokens (given) or none",
    )
    concat_from = choice(
        ("none", "source"),
        "latent stacked on the noisy one: none or source (of a pair)",
        added=True,
    )
    length = option(0, "embeddings a condition where they are given")
    embedding_width = option(0, "their channels; 0: the encoder's")
    expand = option(4, "tokens made of each embedding", 1)
    null = choice(
        ("trained", "random"), "null token: trained or random (fixed)"
    )
    normalize = option(True, "divide embeddings by their L2 norm")
    scale = option(1.0, "factor after it; 0 means sqrt(width)")
    positions = option(True, "patch and pyramid tokens say where")
    drop_rate = share(0.1, "share of conditions replaced by the null")
    noise = option(0.0, "std of embedding noise over embedding RMS", 0)
    mask_rate = share(0.0, "share of condition tokens masked out")


@section("encoder")
class EncoderSection:
    """Image encoder, see `models.vit.ViTConfig`."""

    kind = choice(
        ("joint", "frozen", "none"), "joint (trained along), frozen or none"
    )
    weights = option("", "weights of a frozen encoder, or 'random'")
    family = option("dino", "dino, dinov2, clip, siglip, mae, ijepa")
    depth = option(12, "layers", 1)
    width = option(768, "channels", 1)
    heads = option(12, "attention heads", 1)
    patch = option(16, "side of a patch, pixels", 1)
    image_size = option(224, "side that its positions are for, pixels", 1)
    mlp_width = option(0, "hidden width of its MLPs, 0 for 4 x width")
    registers = option(0, "register tokens")
    swiglu = option(False, "SwiGLU MLPs (DINOv2 giant)")
    projection = option(0, "width of a projected pooled output, 0: none")
    epsilon = option(0.0, "of its layer norms, 0 for the family's")
    view_size = option(0, "side of the view in pixels, 0: image_size", 0)
    pixels = choice(
        ("symmetric", "family"), "values it reads: symmetric or family"
    )


@section("diffusion")
class DiffusionSection:
    """Noise path, prediction and loss."""

    path = option("flow", "ddpm_linear, ddpm_cosine or flow")
    prediction = option("velocity", "eps, x0, v or velocity")
    time_convention = choice(
        ("native", "sit", "repa"), "time and sign: native, sit or repa"
    )
    learn_sigma = option(False, "learn the posterior variance (DDPM)")
    vlb_weight = option(1.0, "weight of the VLB term beside the MSE")
    weighting = option("none", "loss weights: none or min_snr")
    time = option("logit_normal", "time draw: uniform or logit_normal")
    time_mean = option(0.0, "mean of the logit-normal")
    time_std = option(1.0, "std of the logit-normal")
    shift = option(1.0, "resolution shift of flow times, 1 for none")


@section("optim")
class OptimSection:
    """AdamW and its learning-rate schedule."""

    learning_rate = option(0.0001, "peak learning rate of AdamW", 0)
    warmup_steps = option(1000, "steps of linear warm-up", 0)
    schedule = choice(
        ("constant", "cosine", "linear"),
        "after warm-up: constant, cosine, linear",
    )
    final_ratio = option(0.0, "last learning rate over the peak")
    beta1 = option(0.9, "Adam's first decay", 0, below=1)
    beta2 = option(0.999, "Adam's second decay", 0, below=1)
    epsilon = option(1e-08, "Adam's epsilon", 0)
    weight_decay = option(0.0, "decoupled decay, on kernels only", 0)
    moment_dtype = option("float32", "kept moments: float32 or bfloat16")
    clip_norm = option(1.0, "global gradient norm limit, 0 for none", 0)


@section("train")
class TrainSection:
    """Training loop, checkpoints, logging."""

    steps = resumable(400_000, "optimizer updates", 1)
    accumulate = option(1, "micro-batches a step", 1)
    ema_decay = share(0.9999, "EMA decay after its warm-up")
    ema_dtype = option("float32", "kept EMA: float32 or bfloat16")
    log_every = resumable(50, "steps between log lines", 1)
    checkpoint_every = resumable(5000, "steps between checkpoints", 1)
    checkpoint_minutes = resumable(
        0.0, "and minutes between them, 0 for never", 0
    )
    checkpoint_keep = resumable(3, "newest checkpoints kept", 1)
    device_prefetch = resumable(2, "batches put on the devices ahead", 1)
    loss_spike = resumable(
        10.0, "loss over the usual that is bad, 0: none is", 0
    )
    max_rollbacks = resumable(3, "returns to a checkpoint from a bad loss", 0)
    sample_every = resumable(5000, "steps between sample grids, 0 for never", 0)
    evaluate_every = resumable(0, "steps between evaluations, 0 for never", 0)
    init_from = option("", "run or exported file whose EMA to start from")
    tensorboard = resumable(True, "write TensorBoard events")


@section("sample", resumable=True)
class SampleSection:
    """Sampler, and the sample grid of a run."""

    solver = option("dpmpp_2m", "see diffusion.samplers.SOLVERS")
    steps = option(20, "network evaluations", 1)
    guidance = option(4.5, "classifier-free guidance scale, 1 for none")
    guidance_low = share(0.0, "guide from this time on, 0 to 1")
    guidance_high = share(1.0, "guide up to this time, 0 to 1")
    null_mask = choice(
        ("full", "caption"), "null tokens seen: full or caption's mask"
    )
    clip = option(0.0, "hold x0 in [-clip, clip], 1 for pixels, 0 for none", 0)
    lower_order_final = option(True, "first-order last step")
    conditions = option(8, "held-out images in a sample grid", 1)
    variations = option(4, "variations of each", 1)


@section("evaluate", resumable=True)
class EvaluateSection:
    """Metrics of generated images."""

    num_samples = option(256, "generated images", 2)
    batch_size = option(64, "images generated at once", 1)
    per_condition = option(1, "samples for each held-out image", 1)
    metrics = option("fd,match,fidelity", "see evaluation.metrics")
    features = option("colour_texture", "feature set, see evaluation.features")
    preset = option("adm", "protocol, see evaluation.features.presets")
    weights = option("", "file of the features' network")
    reference = option("", "statistics file instead of held-out images")
    best_metric = option("", "keeps the best checkpoint by this metric")


@section("validation", resumable=True)
class ValidationSection:
    """Validation loss on fixed images and noise, for scaling laws."""

    every = option(0, "steps between losses, also at the end; 0: never", 0)
    source = option("", 'SPEC of its images; "" for data.held_out')
    examples = option(256, "held-out images, the same in all runs", 2)
    times = option(16, "noise levels each is shown at", 1)
    batch_size = option(64, "images at once", 1)


@section("mesh", resumable=True)
class MeshSection:
    """Device mesh; its product is the device count."""

    replica = option(1, "data-parallel copies over slow links")
    fsdp = option(-1, "data-parallel shards of the parameters")
    context = option(1, "shards of one image's tokens")
    tensor = option(1, "shards of heads and hidden channels")
