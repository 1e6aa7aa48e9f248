"""Columns sets: what is known of the views of another set, or of the images, view for view.

`embed`, `quality`, `duplicates`, `hard` and `selection` are generators: settings and what computes
their columns; no pixels are stored. `described` and `batches` are what they share; `hard` is cut
into its settings, `candidates`, `tables` of losses, pure `choices`, and what renders (`hardest`).
A new one is a module here and a row in `generators`.
"""
