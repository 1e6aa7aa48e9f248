"""How good an encoder is: features, nearest neighbours, probes, fine-tuning and retrieval."""
