"""GANs of one's own: the file that holds one, its training, its inverter, and how good it is."""
