"""Views searched in latent space: inversion, W-search, W-perturb, and the pool they run in.

`search`, `perturb` and `inversion` are the settings and rows of the generator table, light to
import; `engine`, `decode` and `slots` compute, with torch.
Source: Han et al., Constructive Assimilation.
"""
