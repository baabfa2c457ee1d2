"""Committed predictions: their table, their manifests, and jobs over many runs."""
