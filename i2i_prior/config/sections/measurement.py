"""Fields of sampling, measuring and the device mesh."""

from i2i_prior.config.options import choice, option, section, share


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
    metrics = option("fd,match,fidelity", "see evaluation.evaluate")
    features = option(
        "colour_texture", "feature set, see evaluation.networks.features"
    )
    preset = option("adm", "protocol, see evaluation.networks.presets")
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
