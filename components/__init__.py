"""What each step does: ingest, training, evaluation and inference, a package each.

In each package plain functions come first, tested without Beam; `transforms.py` is wiring.
"""
