"""Fields of training: noise path, loss, optimizer, loop."""

from i2i_prior.config.options import choice, option, resumable, section, share


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
