"""Fields of sampling, measuring and the device mesh."""

from i2i_prior.config.options import option, section, share


@section("sample", resumable=True)
class SampleSection:
    """Sampler, and the sample grid of a run."""

    solver: str = option("dpmpp_2m", "see diffusion.samplers.SOLVERS")
    steps: int = option(20, "network evaluations", 1)
    guidance: float = option(4.5, "classifier-free guidance scale, 1 for none")
    guidance_low: float = share(0.0, "guide from this time on, 0 to 1")
    guidance_high: float = share(1.0, "guide up to this time, 0 to 1")
    null_mask: str = option(
        "full",
        "null tokens seen: full or caption's mask",
        choices=("full", "caption"),
    )
    clip: float = option(
        0.0, "hold x0 in [-clip, clip], 1 for pixels, 0 for none", 0
    )
    lower_order_final: bool = option(True, "first-order last step")
    conditions: int = option(8, "held-out images in a sample grid", 1)
    variations: int = option(4, "variations of each", 1)


@section("evaluate", resumable=True)
class EvaluateSection:
    """Metrics of generated images."""

    num_samples: int = option(256, "generated images", 2)
    batch_size: int = option(64, "images generated at once", 1)
    per_condition: int = option(1, "samples for each held-out image", 1)
    metrics: str = option("fd,match,fidelity", "see evaluation.evaluate")
    features: str = option(
        "colour_texture", "feature set, see evaluation.networks.features"
    )
    preset: str = option("adm", "protocol, see evaluation.networks.presets")
    weights: str = option("", "file of the features' network")
    reference: str = option("", "statistics file instead of held-out images")
    best_metric: str = option("", "keeps the best checkpoint by this metric")


@section("validation", resumable=True)
class ValidationSection:
    """Validation loss on fixed images and noise, for scaling laws."""

    every: int = option(0, "steps between losses, also at the end; 0: never", 0)
    source: str = option("", 'SPEC of its images; "" for data.held_out')
    examples: int = option(256, "held-out images, the same in all runs", 2)
    times: int = option(16, "noise levels each is shown at", 1)
    batch_size: int = option(64, "images at once", 1)


@section("mesh", resumable=True)
class MeshSection:
    """Device mesh; its product is the device count."""

    replica: int = option(1, "data-parallel copies over slow links")
    fsdp: int = option(-1, "data-parallel shards of the parameters")
    context: int = option(1, "shards of one image's tokens")
    tensor: int = option(1, "shards of heads and hidden channels")
