"""Base weights: networks that were trained on rendered lines and come with the program.

`benchmarks/base_weights.py` makes them.
"""

from __future__ import annotations

import os

from components.recogniser.manifest import ModelManifest

BASE = "base"
"""Stands for base weights where a model is named."""
FEW_IMAGES = 500
"""Training images below which trainings start from base weights."""
_FOLDER = os.path.join(os.path.dirname(__file__), "base")


def is_base_folder(folder: str) -> bool:
    """Checks whether a model's folder is that of base weights."""
    return os.path.dirname(folder) == _FOLDER


def find_base_weights(network: str) -> tuple[str, ModelManifest] | None:
    """Finds the folder and the manifest of a network's base weights; returns None if it has none."""
    folder = os.path.join(_FOLDER, network)
    try:
        return folder, ModelManifest.read(folder)
    except FileNotFoundError:
        return None
