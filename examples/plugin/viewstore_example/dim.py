"""The policy `dim`: crops that are often darker or brighter, and seldom gray."""

from __future__ import annotations

from viewstore.images.policy import Policy

DIM = Policy(name="dim", scale=(0.3, 1.0), jitter=(0.7, 0.3, 0.2, 0.02), gray=0.05)
