"""Tasks: reading of a batch, conditions, random draws and loss.

Conditions reach the DiT by three doors that the config opens: tokens
(`conditioner.tokens_from`), pooled (`model.classes`) and concat
(`conditioner.concat_from`).
"""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from i2i_prior.diffusion import objectives
from i2i_prior.models.conditioner import draw_keep
from i2i_prior.models.functional import Flat
from i2i_prior.models.precision import Array
from i2i_prior.tasks.denoiser import Denoiser
from i2i_prior.tasks.inputs import Inputs, example_spec, read

Draws = dict[str, Array]


class Task(Denoiser):
    """Denoising of latents under conditions; base class of all tasks."""

    # Arrays of a held-out example that a sample grid shows: the condition, left
    # of the samples, and the target where it is another
    columns: ClassVar[tuple[str, ...]] = ("image",)

    @staticmethod
    def check(config: ConfigDict) -> None:
        """Checks the fields of a config that this task alone understands.

        Raises:
          UserError: at the first mistake.
        """

    @property
    def example_spec(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and dtypes of one example; see `inputs.example_spec`."""
        return example_spec(self.config, self.shapes)

    def shape_of(self, batch: dict[str, Array]) -> tuple[int, int, int, int]:
        """(B, H, W, C) of the latents of a batch of images of any shape."""
        latent = self.shapes.latent
        cached = "latent" in batch
        count, height, width, _ = batch["latent" if cached else "image"].shape
        factor = 1 if cached else latent.factor
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
        section, shape = config.conditioner, self.shapes.conditioner
        time = config.diffusion
        options = time.time, time.time_mean, time.time_std
        draws = {
            "t": objectives.draw_times(times, batch, self.path, *options),
            "noise": jax.random.normal(noise, latents),
            "drop": jax.random.bernoulli(drop, section.drop_rate, (batch,)),
        }
        if shape and section.noise:
            size = (batch, shape.embeddings, shape.embedding_width)
            draws["embedding_noise"] = jax.random.normal(embedding, size)
        if shape and section.mask_rate:
            rate = section.mask_rate
            draws["keep"] = draw_keep(keep, batch, shape.tokens, rate)
        if self.draws_latents:
            # Of a key of its own, so that the other draws stay what they are.
            posterior = jax.random.fold_in(noise, 1)
            draws["posterior"] = jax.random.normal(posterior, latents)
        return draws

    def loss(
        self, parameters: Flat, batch: dict[str, Array], draws: Draws
    ) -> tuple[Array, dict[str, Array]]:
        """Loss of each example, float32 (B,), and its parts, each (B,).

        `parameters` are all, trainable and frozen; `draws` those of `draw`,
        or a slice of them.
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
        self, model: Any, inputs: Inputs, batch: dict[str, Array], draws: Draws
    ) -> dict[str, Array | None]:
        """The DiT's conditions in training, by keyword.

        The batch has labels, sizes and aspects; without drop among the draws
        nothing is replaced by its null.
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

    def denoising_loss(
        self,
        model: Any,
        x0: Array,
        doors: dict[str, Array | None],
        draws: Draws,
    ) -> tuple[Array, dict[str, Array]]:
        """The loss of latents x0 (B, H, W, C) under drawn t and noise."""
        section, noise, t = self.config.diffusion, draws["noise"], draws["t"]
        x_t = objectives.add_noise(x0, noise, t, self.path)
        output = self._network(model, x_t, t, **doors)
        return objectives.loss(
            output,
            x0,
            noise,
            t,
            self.path,
            section.prediction,
            learn_sigma=self._learns_sigma,
            vlb_weight=section.vlb_weight,
            weighting=section.weighting,
        )

    @property
    def draws_latents(self) -> bool:
        """True where latents are drawn from the autoencoder's Gaussian."""
        encodes = self.shapes.has_autoencoder or self.config.data.cached
        return encodes and self.shapes.is_gaussian
