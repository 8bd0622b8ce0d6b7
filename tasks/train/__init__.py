"""Training of the networks: configuration, data, targets, losses and the loop."""
