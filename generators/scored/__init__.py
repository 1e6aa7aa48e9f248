"""Columns sets: what is known of the views of another set, or of the images, view for view.

Each module is one generator: its settings and what computes its columns; no pixels are stored.
A new one is a module here and a row in `generators`.
"""
