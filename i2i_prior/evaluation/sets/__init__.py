"""Sets of images and their statistics, from files or a cache."""
