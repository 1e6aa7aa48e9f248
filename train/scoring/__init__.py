"""Frozen methods that score views for builds: which of them are hard, and how to make them so."""
