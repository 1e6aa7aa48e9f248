"""The experiments of docs/results.md, one module each; `benchmarks/experiments.py` runs them."""
