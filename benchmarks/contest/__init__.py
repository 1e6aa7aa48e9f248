"""The loaders that are compared, each in a process of its own, over the same five workloads."""
