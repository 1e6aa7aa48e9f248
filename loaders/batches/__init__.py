"""A batch: what makes one of decided rows, joins those of several stores, and hands it over.

`batch` is what users hold and needs torch; `maker` and `several` do not import it until the first
batch is asked for.
"""
