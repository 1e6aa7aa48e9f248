"""Views of networks that a training made against itself, frozen: ViewMaker and the STN adversary.

What a network is comes by its role (`viewstore train` writes its file); here is how views are made
of it, in batches of one shape and from keyed draws.
"""
