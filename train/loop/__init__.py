"""The training loop and what is around it: settings, views, optimizer, checkpoints, logs."""
