"""Web page to try a prior: variations of an image, walks between two.

pip install -e '.[demo]'
python examples/demo.py runs/quickstart          # then open the printed URL
"""

from __future__ import annotations

import sys

import numpy as np

from i2i_prior import Prior
from i2i_prior.data.crops import center_crop
from i2i_prior.report import image_grid

try:
    import gradio as gr
except ModuleNotFoundError:
    sys.exit("examples/demo.py needs gradio: pip install -e '.[demo]'")


def build(prior: Prior) -> gr.Blocks:
    """Builds two tabs; the sliders start at the settings of the run."""
    sampling = prior.config.sample

    def enlarged(images):
        scale = max(1, 192 // images.shape[1])
        return [i.repeat(scale, 0).repeat(scale, 1) for i in images]

    def vary(image, num, steps, guidance, seed):
        found = prior.vary(
            [image], int(num), steps=int(steps), guidance=guidance, seed=seed
        )
        return enlarged(found[0])

    def walk(start, end, frames, method, steps, guidance, seed):
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

    with gr.Blocks(title="i2i_prior") as page:
        gr.Markdown(f"# {prior.config.name}, step {prior.step}")
        steps = gr.Slider(1, 100, sampling.steps, step=1, label="steps")
        guidance = gr.Slider(0, 10, sampling.guidance, label="guidance")
        seed = gr.Number(0, precision=0, label="seed")
        with gr.Tab("Variations"):
            image = gr.Image(label="condition")
            num = gr.Slider(1, 16, 8, step=1, label="variations")
            gallery = gr.Gallery(label="variations", columns=4)
            gr.Button("Vary").click(
                vary, [image, num, steps, guidance, seed], gallery
            )
        with gr.Tab("Interpolation"):
            with gr.Row():
                start, end = gr.Image(label="start"), gr.Image(label="end")
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
    build(Prior.load(sys.argv[1])).launch()
