"""Makers of views: one table of names, one module for each kind."""
