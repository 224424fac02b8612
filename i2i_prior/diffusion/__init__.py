"""The maths of diffusion, without networks: paths, losses, samplers."""
