"""Methods, strategies, the training loop and evaluation."""
