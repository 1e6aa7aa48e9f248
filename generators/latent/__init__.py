"""Views searched in latent space: inversion, W-search, W-perturb, and the pool they run in.

`search`, `perturb` and `inversion` hold the user's settings, which are rows of the generator table,
and what they resolve to, which plans store: the names of those fields, and the pixels and params
that equal ones give, are fixed. `engine`, `slots`, `goal` and `decode` compute; how is
free as long as the bits stay. Source: Han et al., "Constructive Assimilation".
"""
