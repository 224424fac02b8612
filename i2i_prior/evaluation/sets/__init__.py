"""Sets of images and their statistics: read, streamed, cached."""
