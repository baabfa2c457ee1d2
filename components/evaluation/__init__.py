"""The evaluation of a model on held-out lines."""
