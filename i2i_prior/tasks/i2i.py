"""The image-to-image task: each image from its own embedding.

`modules` holds encoder, conditioner, DiT and autoencoder; this file says how a
batch becomes their inputs, what is drawn at random, and what the loss is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from i2i_prior.diffusion import objectives
from i2i_prior.diffusion.guidance import classifier_free, scale_at
from i2i_prior.diffusion.paths import Path, get_path
from i2i_prior.errors import UserError
from i2i_prior.models.conditioner import draw_keep
from i2i_prior.models.dit import frozen_names
from i2i_prior.models.functional import Flat, partition
from i2i_prior.models.precision import (
    PRECISIONS,
    Array,
)
from i2i_prior.parallel.sharding import gather_all
from i2i_prior.tasks.conditions import Conditions, null_tokens, with_null
from i2i_prior.tasks.inputs import (
    embed,
    read,
)
from i2i_prior.tasks.network import (
    autoencoder_config,
    conditioner_config,
    dit_config,
    has_autoencoder,
    is_gaussian,
    make_model,
)

Draws = dict[str, Array]


class I2ITask:
    """How an i2i example is made, drawn for and scored.

    Attributes:
      path: the noise path.
      latent: the latent space's `channels` and `factor`.
      conditioner, dit: the shapes of both.
      functional: the module as functions over named arrays.
    """

    def __init__(self, config: ConfigDict):
        self.config = config
        self.path: Path = get_path(
            config.diffusion.path, shift=config.diffusion.shift
        )
        self.latent = autoencoder_config(config)
        self.conditioner = conditioner_config(config)
        self.dit = dit_config(config)
        self.functional, self._init = make_model(config)
        self._frozen = self._frozen_patterns()

    def _frozen_patterns(self) -> tuple[str, ...]:
        patterns = list(frozen_names(self.dit))
        if self.config.encoder.kind == "frozen":
            patterns.append(r"^encoder/")
        patterns.append(r"^autoencoder/")
        if self.config.conditioner.null == "random":
            patterns.append(r"^conditioner/null$")
        return tuple(patterns)

    def init(self, key: Array) -> tuple[Flat, Flat]:
        """Fresh (trainable, frozen) parameters, flat, float32."""
        return partition(self._init(key), self._frozen)

    def latent_shape(self, batch: int) -> tuple[int, int, int, int]:
        """(B, H, W, C) of the latents of `batch` square images."""
        side = self.config.data.image_size // self.latent.factor
        return batch, side, side, self.latent.channels

    def shape_of(self, batch: dict[str, Array]) -> tuple[int, int, int, int]:
        """(B, H, W, C) of the latents of a batch of images of any shape."""
        if "latent" in batch:
            return (*batch["latent"].shape[:3], self.latent.channels)
        count, height, width, _ = batch["image"].shape
        factor = self.latent.factor
        return count, height // factor, width // factor, self.latent.channels

    def draw(self, key: Array, latents: tuple[int, int, int, int]) -> Draws:
        """Everything random of one step, for the whole global batch.

        Drawn before micro-batching and sharding, so that neither changes
        the loss.

        Args:
          key: of the step.
          latents: their shape (B, H, W, C).

        Returns:
          t (B,), noise (B, H, W, C), drop bool (B,), and where configured
          embedding_noise (B, M0, C), keep bool (B, M), and posterior
          (B, H, W, C) for a draw from the autoencoder's Gaussian.
        """
        config, batch = self.config, latents[0]
        times, noise, drop, embedding, keep = jax.random.split(key, 5)
        draws = {
            "t": objectives.draw_times(
                times,
                batch,
                self.path,
                config.diffusion.time,
                config.diffusion.time_mean,
                config.diffusion.time_std,
            ),
            "noise": jax.random.normal(noise, latents),
            "drop": jax.random.bernoulli(
                drop, config.conditioner.drop_rate, (batch,)
            ),
        }
        shape = self.conditioner
        if config.conditioner.noise:
            size = (batch, shape.embeddings, shape.embedding_width)
            draws["embedding_noise"] = jax.random.normal(embedding, size)
        if config.conditioner.mask_rate:
            draws["keep"] = draw_keep(
                keep, batch, shape.tokens, config.conditioner.mask_rate
            )
        if self.draws_latents:
            # Of a key of its own, so that the other draws stay what they are.
            posterior = jax.random.fold_in(noise, 1)
            draws["posterior"] = jax.random.normal(posterior, latents)
        return draws

    def loss(
        self, parameters: Flat, batch: dict[str, Array], draws: Draws
    ) -> tuple[Array, dict[str, Array]]:
        """Per-example loss.

        Args:
          parameters: all of them, trainable and frozen, by name.
          batch: see `modules.example_shapes`.
          draws: of `draw`, or a slice of them.

        Returns:
          loss float32 (B,), and its parts, each (B,).
        """
        config = self.config
        model = self.merged(parameters)
        x0, embeddings = read(self.config, model, batch, draws.get("posterior"))
        if "embedding_noise" in draws:
            rms = jnp.sqrt(jnp.square(embeddings).mean(-1, keepdims=True))
            embeddings += (
                config.conditioner.noise * rms * draws["embedding_noise"]
            )
        tokens = model.conditioner(embeddings, draws["drop"])
        return self.score(model, x0, tokens, batch, draws)

    def merged(self, parameters: Flat) -> Any:
        """The model, with parameters that every device needs whole."""
        operands = PRECISIONS[self.config.model.precision].operands
        return self.functional.merge(gather_all(parameters, operands))

    def score(
        self,
        model: Any,
        x0: Array,
        tokens: Array,
        batch: dict[str, Array],
        draws: Draws,
    ) -> tuple[Array, dict[str, Array]]:
        """The loss of latents under drawn noise, as `loss`.

        Args:
          model: of `merged`.
          x0: (B, H, W, C), as `reading.read` gives them.
          tokens: (B, M, D), of the conditioner.
          batch: for sizes and aspects, where the model is told them.
          draws: t, noise, and keep where it is configured.
        """
        config = self.config
        x_t = objectives.add_noise(x0, draws["noise"], draws["t"], self.path)
        doors = {"tokens": tokens, "mask": draws.get("keep")}
        if config.model.size_conditions:
            doors |= {"size": batch["size"], "aspect": batch["aspect"]}
        output = self._network(model, x_t, draws["t"], **doors)
        return objectives.loss(
            output,
            x0,
            draws["noise"],
            draws["t"],
            self.path,
            config.diffusion.prediction,
            learn_sigma=self._learns_sigma,
            vlb_weight=config.diffusion.vlb_weight,
            weighting=config.diffusion.weighting,
        )

    @property
    def draws_latents(self) -> bool:
        """Whether the autoencoder gives a Gaussian to draw latents from."""
        encodes = has_autoencoder(self.config) or self.config.data.cached
        return encodes and is_gaussian(self.config)

    @property
    def _learns_sigma(self) -> bool:
        # SiT keeps DiT's variance channels on its flow, and never uses them.
        return self.config.diffusion.learn_sigma and self.path.is_discrete

    def _network(self, model: Any, x_t: Array, t: Array, **doors: Any) -> Array:
        """The DiT on our clock and with our signs.

        SiT (arXiv 2401.08740, official code) runs its clock from noise at 0
        to data at 1 and answers data - noise; REPA keeps the clock and only
        counts to 1 instead of 1000 ("unit").
        """
        convention = self.config.diffusion.time_convention
        if convention == "native":
            time = self.path.network_time(t)
        else:
            time = 1 - t if convention == "sit" else t
        output = model.dit(x_t, time, **doors)
        if not self._learns_sigma:
            output = output[..., : self.latent.channels]
        return -output if convention == "sit" else output

    def embed(self, parameters: Flat, views: Array) -> Array:
        """views uint8 (B, V, V, 3) -> embeddings float32 (B, M0, C).

        Raises:
          UserError: where the model has no encoder.
        """
        model = self.functional.merge(parameters)
        if model.encoder is None:
            raise UserError(
                "this model has no image encoder; load it with "
                "encoder=FILE, or give it tokens instead of images"
            )
        return embed(self.config, model, views)

    def decode(self, parameters: Flat, latents: Array) -> Array:
        """latents (B, H, W, C) -> images in about [-1, 1], (B, S, S, 3).

        Raises:
          UserError: where the model has no autoencoder.
        """
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
          conditions: what else the model wants.
          null_mask: see `conditions.with_null`.

        Returns:
          predict(x_t (B, H, W, C), t (B,)) -> prediction (B, H, W, C).

        Raises:
          UserError: where there is no null to guide against.
        """
        model = self.functional.merge(parameters)
        conditions = conditions or Conditions()
        channels = self.latent.channels
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
            classes=self.config.model.classes,
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
