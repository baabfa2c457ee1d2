"""Training: networks, their input, the training loop and the exported model."""
