"""The work of the steps: ingest, training, evaluation, inference and review, a package each.

In each package plain functions do the work, tested without Beam; `transforms.py` is the wiring.
"""
