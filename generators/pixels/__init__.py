"""Generators that need no network: a recorded draw, rendered on the source image."""
