"""Pay for a hard view once; train on it for ever. See docs/architecture.md."""
