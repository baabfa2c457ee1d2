"""A small disk, on which a command runs until no byte is free, and again where there is room."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

_ON_A_SMALL_DISK = """
set -e
workspace=$1 disk=$2 spare=$3
shift 3
mount -t tmpfs -o size=1g tmpfs "$disk"
cp -a "$workspace/." "$disk"
used=$(df -k --output=used "$disk" | tail -n 1)
mount -o remount,size=$((used + spare))k "$disk"
set +e
"$@" 2>&1
echo "status=$?"
echo "--- again"
set -e
mount -o remount,size=1g "$disk"
"$@" 2>&1
rm -r "$workspace"
cp -a "$disk" "$workspace"
"""


def find_obstacle_to_small_disks() -> str | None:
    """Returns why a test cannot mount a small disk on this machine, or None if it can."""
    if shutil.which("unshare") is None:
        return "unshare is not installed"
    with tempfile.TemporaryDirectory() as folder:
        mount = ["unshare", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "tmpfs", folder]
        done = subprocess.run(mount, capture_output=True, text=True)
    return None if done.returncode == 0 else f"small disks cannot be mounted: {done.stderr.strip()}"


def run_on_small_disk(
    command: list[str], workspace: Path, disk: Path, spare_kib: int
) -> subprocess.CompletedProcess[str]:
    """Copies a workspace to a disk with few bytes free, runs a command twice, and copies it back.

    Args:
        command: works in the folder of the disk; the second time there is room.
        disk: an empty folder.
    """
    return subprocess.run(
        [
            *("unshare", "--map-root-user", "--mount", "sh", "-c", _ON_A_SMALL_DISK, "sh"),
            *(str(workspace), str(disk), str(spare_kib)),
            *command,
        ],
        capture_output=True,
        text=True,
    )
