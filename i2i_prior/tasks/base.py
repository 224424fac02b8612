"""Tasks: reading of a batch, conditions, random draws, loss, prediction.

A task turns a batch into latents and conditions, draws what is random, and
gives the loss and the guided network. Conditions reach the DiT by three doors
that the config opens: tokens (`conditioner.tokens_from`), pooled
(`model.classes`) and concat (`conditioner.concat_from`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

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
from i2i_prior.models.precision import PRECISIONS, Array
from i2i_prior.parallel.sharding import gather_all
from i2i_prior.tasks.conditions import Conditions, null_tokens, with_null
from i2i_prior.tasks.inputs import (
    Inputs,
    embed,
    encode_mean,
    example_spec,
    read,
)
from i2i_prior.tasks.network import make_networks
from i2i_prior.tasks.resolve import resolve

Draws = dict[str, Array]


class Task:
    """Denoising of latents under conditions; base class of all tasks.

    Attributes:
      config: of the run.
      shapes: of the networks, see `Resolved`.
      path: the noise path.
      functional: the networks as functions over named arrays.
      frozen: regular expressions of parameters that are never trained.
      columns: arrays of a held-out example that a sample grid shows: the
        condition, left of the samples, and the target where it is another.
    """

    columns: ClassVar[tuple[str, ...]] = ("image",)

    @staticmethod
    def check(config: ConfigDict) -> None:
        """Checks the fields of a config that this task alone understands.

        Raises:
          UserError: at the first mistake.
        """

    def __init__(self, config: ConfigDict):
        self.config = config
        self.shapes = resolve(config)
        self.path: Path = get_path(
            config.diffusion.path, shift=config.diffusion.shift
        )
        self.functional, self._init = make_networks(self.shapes)
        self.frozen = self._frozen_patterns()

    @property
    def example_spec(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and dtypes of one example; see `inputs.example_spec`."""
        return example_spec(self.config, self.shapes)

    def _frozen_patterns(self) -> tuple[str, ...]:
        patterns = list(frozen_names(self.shapes.dit))
        if self.config.encoder.kind == "frozen":
            patterns.append(r"^encoder/")
        patterns.append(r"^autoencoder/")
        if self.config.conditioner.null == "random":
            patterns.append(r"^conditioner/null$")
        return tuple(patterns)

    def init(self, key: Array) -> tuple[Flat, Flat]:
        """Fresh (trainable, frozen) parameters, flat, float32."""
        return partition(self._init(key), self.frozen)

    def latent_shape(self, batch: int) -> tuple[int, int, int, int]:
        """(B, H, W, C) of the latents of `batch` square images."""
        side = self.config.data.image_size // self.shapes.latent.factor
        return batch, side, side, self.shapes.latent.channels

    def shape_of(self, batch: dict[str, Array]) -> tuple[int, int, int, int]:
        """(B, H, W, C) of the latents of a batch of images of any shape."""
        latent = self.shapes.latent
        if "latent" in batch:
            count, height, width, _ = batch["latent"].shape
            return count, height, width, latent.channels
        count, height, width, _ = batch["image"].shape
        factor = latent.factor
        return count, height // factor, width // factor, latent.channels

    def draw(self, key: Array, latents: tuple[int, int, int, int]) -> Draws:
        """Draws all that is random in one step, for the global batch.

        It is drawn before micro-batching and sharding, so that neither
        changes the loss.

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
        shape = self.shapes.conditioner
        if shape and config.conditioner.noise:
            size = (batch, shape.embeddings, shape.embedding_width)
            draws["embedding_noise"] = jax.random.normal(embedding, size)
        if shape and config.conditioner.mask_rate:
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
          batch: see `example_spec`.
          draws: of `draw`, or a slice of them.

        Returns:
          loss float32 (B,), and its parts, each (B,).
        """
        model = self.merged(parameters)
        inputs = self.read(model, batch, draws.get("posterior"))
        doors = self.doors(model, inputs, batch, draws)
        return self.denoising_loss(model, inputs.x0, doors, draws)

    def read(
        self, model: Any, batch: dict[str, Array], noise: Array | None
    ) -> Inputs:
        """Latents and conditions of a batch; see `inputs.read`."""
        return read(self.config, model, batch, noise)

    def doors(
        self,
        model: Any,
        inputs: Inputs,
        batch: dict[str, Array],
        draws: Draws,
    ) -> dict[str, Array | None]:
        """The DiT's conditions in training, by keyword.

        Args:
          model: of `merged`.
          inputs: of `read`.
          batch: for labels, sizes and aspects.
          draws: embedding_noise, drop and keep; without drop nothing is
            replaced by its null.
        """
        config, embeddings = self.config, inputs.embeddings
        drop, tokens = draws.get("drop"), None
        if embeddings is not None:
            if "embedding_noise" in draws:
                rms = jnp.sqrt(jnp.square(embeddings).mean(-1, keepdims=True))
                embeddings += (
                    config.conditioner.noise * rms * draws["embedding_noise"]
                )
            tokens = model.conditioner(embeddings, drop)
        doors = {"tokens": tokens, "mask": draws.get("keep")}
        if config.model.classes:
            doors["pooled"] = batch["label"]
            if drop is not None:
                null = config.model.classes
                doors["pooled"] = jnp.where(drop, null, batch["label"])
        if inputs.concat is not None:
            doors["concat"] = inputs.concat
            if drop is not None:
                dropped = drop[:, None, None, None]
                doors["concat"] = jnp.where(dropped, 0, inputs.concat)
        if config.model.size_conditions:
            doors |= {"size": batch["size"], "aspect": batch["aspect"]}
        return doors

    def merged(self, parameters: Flat) -> Any:
        """The networks, with parameters gathered where a device needs all."""
        operands = PRECISIONS[self.config.model.precision].operands
        return self.functional.merge(gather_all(parameters, operands))

    def denoising_loss(
        self,
        model: Any,
        x0: Array,
        doors: dict[str, Array | None],
        draws: Draws,
    ) -> tuple[Array, dict[str, Array]]:
        """The loss of latents under drawn noise, as `loss`.

        Args:
          model: of `merged`.
          x0: (B, H, W, C).
          doors: of `doors`.
          draws: t and noise.
        """
        config = self.config
        x_t = objectives.add_noise(x0, draws["noise"], draws["t"], self.path)
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
        """True where latents are drawn from the autoencoder's Gaussian."""
        encodes = self.shapes.has_autoencoder or self.config.data.cached
        return encodes and self.shapes.is_gaussian

    @property
    def _learns_sigma(self) -> bool:
        # SiT keeps DiT's variance channels on its flow, and never uses them.
        return self.config.diffusion.learn_sigma and self.path.is_discrete

    def _network(self, model: Any, x_t: Array, t: Array, **doors: Any) -> Array:
        """The DiT on our clock and with our signs.

        SiT (arXiv 2401.08740, official code) runs its clock from noise at 0
        to data at 1 and answers data - noise; REPA keeps the clock and only
        counts to 1 instead of 1000.
        """
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

    def condition(
        self, parameters: Flat, given: dict[str, Array]
    ) -> tuple[Array | None, Conditions]:
        """Encodes what a sample is conditioned on.

        Args:
          parameters: all of them, by name.
          given: the conditions among `example_spec`: view, source_image,
            label, each (B, ...).

        Returns:
          embeddings float32 (B, M0, C_e) or None, and the other doors.

        Raises:
          UserError: where the model has no encoder.
        """
        embeddings = concat = None
        if "view" in given:
            embeddings = self.embed(parameters, given["view"])
        if "source_image" in given:
            model = self.functional.merge(parameters)
            concat = encode_mean(model, given["source_image"])
        return embeddings, Conditions(pooled=given.get("label"), concat=concat)

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
