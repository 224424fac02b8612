"""Fields of the data: sources, crops, batches."""

from i2i_prior.config.options import (
    choice,
    host_local,
    option,
    resumable,
    section,
    share,
)


@section("")
class RunSection:
    """Fields of a run beside its sections."""

    name = resumable("run", "what the run is called in reports")
    task = option("i2i", "what is learned, see tasks.TASKS", added=True)
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
