"""Pretraining of encoders on the views of a loader, and how good the encoders are.

`feed` opens the views, `pretrain` runs the loop, a strategy plans weighted pairs of views and a
method embeds and scores them; `encoder_file` keeps the result and `evaluate` probes it. What
others rely on: the bytes of encoder files and checkpoints, and that a resumed run gives the
weights of an unbroken one. How the loop is written may change freely.
"""
