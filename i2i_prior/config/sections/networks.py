"""Fields of the networks: latent space, DiT, conditioner, encoder."""

from i2i_prior.config.options import choice, option, resumable, section, share


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
