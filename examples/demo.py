"""Web page to try a prior: variations of an image, walks between two.

pip install -e '.[demo]'
python examples/demo.py runs/quickstart          # then open the printed URL
"""

from __future__ import annotations

import sys

import numpy as np
from PIL import Image, UnidentifiedImageError

from i2i_prior import Prior
from i2i_prior.data.crops import center_crop
from i2i_prior.data.find_images import open_image
from i2i_prior.report import image_grid

try:
    import gradio as gr
except ModuleNotFoundError:
    sys.exit("examples/demo.py needs gradio: pip install -e '.[demo]'")


MOST_BYTES = "20mb"  # of an upload
MOST_PIXELS = 40_000_000  # by the header, before anything is decoded


def opened(path: str | None) -> np.ndarray:
    """Decodes an upload, uint8 (H, W, 3); gr.Error for one that is none."""
    if path is None:
        raise gr.Error("Choose an image first.")
    try:
        with Image.open(path) as header:
            width, height = header.size
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError):
        raise gr.Error("This file is no image that can be read.") from None
    if width * height > MOST_PIXELS:
        raise gr.Error(
            f"This image has {width * height / 1e6:.0f} megapixels; choose one "
            f"of {MOST_PIXELS / 1e6:.0f} or fewer."
        )
    return open_image(path)


def build(prior: Prior) -> gr.Blocks:
    """Builds two tabs; the sliders start at the settings of the run."""
    sampling = prior.config.sample

    def enlarged(images):
        scale = max(1, 192 // images.shape[1])
        return [i.repeat(scale, 0).repeat(scale, 1) for i in images]

    def vary(image, num, steps, guidance, seed):
        options = {"steps": int(steps), "guidance": guidance, "seed": seed}
        found = prior.vary([opened(image)], int(num), **options)
        return enlarged(found[0])

    def walk(start, end, frames, method, steps, guidance, seed):
        start, end = opened(start), opened(end)
        strip = prior.interpolate(
            start,
            end,
            int(frames),
            method=method,
            steps=int(steps),
            guidance=guidance,
            seed=seed,
        )
        size = strip.shape[1]
        ends = [center_crop(image, size)[None] for image in (start, end)]
        return image_grid.grid(
            np.concatenate([ends[0], strip, ends[1]]),
            columns=len(strip) + 2,
            scale=max(1, 96 // size),
        )

    def upload(label):
        # A path, and in its own mode: otherwise gradio decodes it itself.
        return gr.Image(label=label, type="filepath", image_mode=None)

    with gr.Blocks(title="i2i_prior") as page:
        gr.Markdown(f"# {prior.config.name}, step {prior.step}")
        steps = gr.Slider(1, 100, sampling.steps, step=1, label="steps")
        guidance = gr.Slider(0, 10, sampling.guidance, label="guidance")
        seed = gr.Number(0, precision=0, label="seed")
        with gr.Tab("Variations"):
            image = upload("condition")
            num = gr.Slider(1, 16, 8, step=1, label="variations")
            gallery = gr.Gallery(label="variations", columns=4)
            gr.Button("Vary").click(
                vary, [image, num, steps, guidance, seed], gallery
            )
        with gr.Tab("Interpolation"):
            with gr.Row():
                start, end = upload("start"), upload("end")
            frames = gr.Slider(2, 24, 8, step=1, label="frames")
            method = gr.Radio(["lerp", "slerp"], value="lerp", label="walk")
            strip = gr.Image(label="walk")
            gr.Button("Walk").click(
                walk, [start, end, frames, method, steps, guidance, seed], strip
            )
    return page


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python examples/demo.py RUN")
    build(Prior.load(sys.argv[1])).launch(
        max_file_size=MOST_BYTES, show_error=True
    )
