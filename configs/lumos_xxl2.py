"""A Lumos I2I prior of 3.3 billion parameters, for TPU pods and GPU clusters.

    i2i-prior compile --config configs/lumos_xxl2.py --topology v5p:8x8x4 \\
        --mesh replica=8,fsdp=16,tensor=2
    i2i-prior train --config configs/lumos_xxl2.py --workdir RUN \\
        --config.data.source=tar:/data/*.tar \\
        --config.encoder.weights=dino_vitbase16_pretrain.pth \\
        --config.autoencoder.weights=sd-vae-ft-mse

Blocks, conditioner, path and loss of `lumos_xl2.py`, 4x as large. Nobody has
published a recipe of this size: learning rate and clipping are XL/2's.
"""

import runpy
from pathlib import Path

from i2i_prior.models.presets import preset

_xl2 = runpy.run_path(str(Path(__file__).with_name("lumos_xl2.py")))


def get_config(arg=""):
    """`res=256` pixels a side."""
    config = _xl2["get_config"](arg)
    config.name = "lumos_xxl2"
    config.model.update(preset("lumos_xxl2"))
    return config
