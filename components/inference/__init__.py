"""The recognition of new images in bulk, into committed runs of predictions."""
