"""The accelerators of this machine, found without loading their libraries."""

from __future__ import annotations

import os
import re


def find_gpus() -> list[str]:
    """Finds the NVIDIA devices that this process may use; returns their names as in `CUDA_VISIBLE_DEVICES`."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        names = [name.strip() for name in visible.split(",")]
        hidden = next((i for i, name in enumerate(names) if name in ("", "-1")), len(names))
        return names[:hidden]  # CUDA ignores every name after an invalid one
    try:
        devices = [name for name in os.listdir("/dev") if re.fullmatch(r"nvidia\d+", name)]
    except OSError:
        return []
    return [str(number) for number in range(len(devices))]  # a container's devices keep the numbers of their host
