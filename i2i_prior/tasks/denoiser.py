"""Networks of a config as functions: initialise, encode, predict, decode."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from ml_collections import ConfigDict

from i2i_prior.diffusion.guidance import classifier_free, scale_at
from i2i_prior.diffusion.paths import Path, get_path
from i2i_prior.errors import UserError
from i2i_prior.models.dit import frozen_names
from i2i_prior.models.functional import Flat, partition
from i2i_prior.models.precision import PRECISIONS, Array
from i2i_prior.parallel.sharding import gather_all
from i2i_prior.tasks.conditions import Conditions, null_tokens, with_null
from i2i_prior.tasks.inputs import embed, encode_mean
from i2i_prior.tasks.network import make_networks
from i2i_prior.tasks.resolve import resolve


class Denoiser:
    """The networks of a config and the noise path that they are trained on.

    Attributes:
      config: of the run.
      shapes: of the networks, see `Resolved`.
      path: the noise path.
      functional: the networks as functions over named arrays.
      frozen: regular expressions of parameters that are never trained.
    """

    def __init__(self, config: ConfigDict):
        self.config = config
        self.shapes = resolve(config)
        self.path: Path = get_path(
            config.diffusion.path, shift=config.diffusion.shift
        )
        self.functional, self._init = make_networks(self.shapes)
        frozen = [*frozen_names(self.shapes.dit), r"^autoencoder/"]
        if config.encoder.kind == "frozen":
            frozen.append(r"^encoder/")
        if config.conditioner.null == "random":
            frozen.append(r"^conditioner/null$")
        self.frozen = tuple(frozen)

    def init(self, key: Array) -> tuple[Flat, Flat]:
        """Fresh (trainable, frozen) parameters, flat, float32."""
        return partition(self._init(key), self.frozen)

    def latent_shape(self, batch: int) -> tuple[int, int, int, int]:
        """(B, H, W, C) of the latents of `batch` square images."""
        side = self.config.data.image_size // self.shapes.latent.factor
        return batch, side, side, self.shapes.latent.channels

    def merged(self, parameters: Flat) -> Any:
        """The networks, with parameters gathered where a device needs all."""
        operands = PRECISIONS[self.config.model.precision].operands
        return self.functional.merge(gather_all(parameters, operands))

    @property
    def _learns_sigma(self) -> bool:
        # SiT keeps DiT's variance channels on its flow, and never uses them.
        return self.config.diffusion.learn_sigma and self.path.is_discrete

    def _network(self, model: Any, x_t: Array, t: Array, **doors: Any) -> Array:
        """The DiT on our clock and with our signs.

        SiT (arXiv 2401.08740, official code) runs its clock from noise at 0
        to data at 1 and answers data - noise; REPA keeps the clock and only
        counts to 1 instead of 1000. Without a size among the doors a model
        that reads one is told that of the latents.
        """
        if self.shapes.dit.size_conditions and doors.get("size") is None:
            factor, batch = self.shapes.latent.factor, x_t.shape[0]
            height, width = (side * factor for side in x_t.shape[1:3])
            size = jnp.array([height, width], jnp.float32)
            aspect = jnp.array([height / width], jnp.float32)
            doors["size"] = jnp.broadcast_to(size, (batch, 2))
            doors["aspect"] = jnp.broadcast_to(aspect, (batch, 1))
        convention = self.config.diffusion.time_convention
        if convention == "native":
            time = self.path.network_time(t)
        else:
            time = 1 - t if convention == "sit" else t
        output = model.dit(x_t, time, **doors)
        if not self._learns_sigma:
            output = output[..., : self.shapes.latent.channels]
        return -output if convention == "sit" else output

    def embed(self, parameters: Flat, views: Array) -> Array:
        """views uint8 (B, V, V, 3) -> embeddings float32 (B, M0, C);
        UserError where the model has no encoder."""
        embeddings, _ = self.condition(parameters, {"view": views})
        assert embeddings is not None
        return embeddings

    def condition(
        self, parameters: Flat, given: dict[str, Array]
    ) -> tuple[Array | None, Conditions]:
        """Encodes what a sample is conditioned on.

        `given` are the conditions among `example_spec`: view, source_image,
        label, each (B, ...).

        Returns:
          embeddings float32 (B, M0, C_e) or None, and the other doors.

        Raises:
          UserError: where the model has no encoder.
        """
        model = self.functional.merge(parameters)
        embeddings = concat = None
        if "view" in given:
            if model.encoder is None:
                raise UserError(
                    "this model has no image encoder; load it with "
                    "encoder=FILE, or give it tokens instead of images"
                )
            embeddings = embed(self.config, model, given["view"])
        if "source_image" in given:
            concat = encode_mean(model, given["source_image"])
        return embeddings, Conditions(pooled=given.get("label"), concat=concat)

    def decode(self, parameters: Flat, latents: Array) -> Array:
        """latents (B, H, W, C) -> images in about [-1, 1], (B, S, S, 3);
        UserError where the model has no autoencoder."""
        if self.config.autoencoder.kind == "pixels":
            return latents
        model = self.functional.merge(parameters)
        if model.autoencoder is None:
            raise UserError(
                f"these latents ({self.config.autoencoder.kind}) need an "
                "autoencoder; load the model with autoencoder=FILE"
            )
        return model.autoencoder.decode(latents)

    def predictor(
        self,
        parameters: Flat,
        tokens: Array | None = None,
        guidance: float | Array = 1.0,
        interval: tuple[float, float] = (0.0, 1.0),
        conditions: Conditions | None = None,
        null_mask: str = "full",
    ) -> Callable[[Array, Array], Array]:
        """The guided network as a function of (x_t, t).

        Condition and null go through the network as one batch of 2B. Only a
        Python number 1 skips the null half.

        Args:
          parameters: all of them, by name.
          tokens: embeddings (B, M0, C), as `embed` gives them.
          guidance: scale, a number or (B,).
          interval: path times between which guidance acts.
          conditions, null_mask: see `conditions.with_null`.

        Returns:
          predict(x_t (B, H, W, C), t (B,)) -> prediction (B, H, W, C).

        Raises:
          UserError: where there is no null to guide against.
        """
        model = self.functional.merge(parameters)
        conditions = conditions or Conditions()
        channels = self.shapes.latent.channels
        projected = None
        if tokens is not None and model.conditioner is not None:
            projected = model.conditioner(tokens)

        if isinstance(guidance, int | float) and guidance == 1:
            doors = conditions.doors()

            def plain(x_t: Array, t: Array) -> Array:
                out = self._network(model, x_t, t, tokens=projected, **doors)
                return out[..., :channels]

            return plain
        both, doors = with_null(
            conditions,
            projected,
            null_tokens(model.conditioner, tokens, conditions.null_tokens),
            classes=self.shapes.dit.classes,
            null_mask=null_mask,
        )

        def guided(x_t: Array, t: Array) -> Array:
            twice = jnp.concatenate([x_t, x_t]), jnp.concatenate([t, t])
            out = self._network(model, *twice, tokens=both, **doors)
            cond, uncond = jnp.split(out[..., :channels], 2)
            return classifier_free(
                cond, uncond, scale_at(t, guidance, interval)
            )

        return guided
