"""StyleGAN2 of our own: mapping and synthesis networks, their layers, and their architecture.

The images it makes of a file's weights are those of the program that trained them, to 1e-5; parity
tests hold that. Everything else may change.
"""
