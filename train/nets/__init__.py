"""Backbones, heads and batch norm domains: plain modules, which know neither views nor losses."""
