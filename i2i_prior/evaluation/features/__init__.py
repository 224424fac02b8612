"""Feature extractors: networks and functions of images."""
