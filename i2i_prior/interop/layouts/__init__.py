"""Names of published weights; imported without JAX by the command line."""

# layout of a diffusion transformer -> name in messages
LAYOUTS = {
    "lumos": "Lumos",
    "dit": "DiT",
    "sit": "SiT",
    "repa": "REPA",
    "pixart": "PixArt-alpha",
    "pixart_diffusers": "diffusers PixArtTransformer2DModel",
}
