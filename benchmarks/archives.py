"""Reading a collection in archives, against the same images as local files.

    python benchmarks/archives.py --images=../shared/data/captcha [--count=100000] [--archives=10]
        [--kind=tar|zip|tar.gz] [--workspace=WS] [--scratch=/dev/shm]

The images are those of `--images`, over and over under names of their own. The infer step reads them as files of a
disk, from archives on that disk, and from the same archives in an emulator of Google Cloud Storage on this machine,
behind a server that counts the requests. The workspace is local each time. A second night reads nothing new. Seconds
are those of the infer step, and processor seconds those of the whole command.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the checkout that this file lies in

from benchmarks.common import CORES, Original, Run, copy_originals, make_images, name_images, run_command
from benchmarks.inference import prepare_workspace, run_infer, write_labelled
from tests.engines.proxy import proxy_of
from tests.engines.services import emulated_store

_MODES = {"tar": "w", "tar.gz": "w:gz"}


def write_archives(folder: Path, originals: Sequence[Original], count: int, archives: int, kind: str) -> Path:
    """Packs a collection into archives of equal numbers of images."""
    folder.mkdir()
    images = list(name_images(originals, count))
    each = -(-count // archives)
    for number in range(archives):
        some = images[number * each :][:each]
        path = folder / f"{number:03d}.{kind}"
        if kind == "zip":
            with zipfile.ZipFile(path, "w") as packed:
                for original, name in some:
                    packed.write(original.path, f"{name}{original.path.suffix}")
        else:
            with tarfile.open(path, _MODES[kind]) as archive:  # type: ignore[call-overload]
                for original, name in some:
                    archive.add(original.path, f"{name}{original.path.suffix}")
    return folder


def print_run(name: str, run: Run, count: int) -> None:
    """Prints one run as a row of the table."""
    print(f"| {name} | {count / run.step:,.0f} | {run.processor:.1f} | {run.others:.0%} | ", end="", flush=True)


def main() -> None:
    """Runs the measurements."""
    parser = argparse.ArgumentParser(description="Measure the reading of archives.", allow_abbrev=False)
    parser.add_argument("--images", required=True, help="folder of images whose names are their labels")
    parser.add_argument("--count", type=int, default=100_000, help="images (default: %(default)s)")
    parser.add_argument("--archives", type=int, default=10, help="archives (default: %(default)s)")
    parser.add_argument("--kind", choices=("tar", "zip", "tar.gz"), default="tar", help="(default: %(default)s)")
    parser.add_argument("--workspace", help="whose accepted model reads (default: one is trained)")
    parser.add_argument("--scratch", help="where the temporary folder is made (default: the system's)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="archives-", dir=options.scratch) as folder:
        scratch = Path(folder).resolve()
        originals = copy_originals(options.images, scratch / "originals")
        workspace = scratch / "workspace"
        manifest = prepare_workspace(options.workspace, write_labelled(scratch / "labelled", originals), workspace)
        before = os.getloadavg()[0]
        print(f"{options.count:,} images in {options.archives} archives, {CORES} cores, model {manifest.model}\n")
        print("| collection | images/s | processor s | others | requests |\n|---|---|---|---|---|")
        images = make_images(scratch / "images", originals, options.count)
        print_run("files on a disk", run_infer(workspace, str(images), options.count), options.count)
        print("|")
        shutil.rmtree(images)
        packed = write_archives(scratch / "packed", originals, options.count, options.archives, options.kind)
        print_run(f".{options.kind} on a disk", run_infer(workspace, str(packed), options.count), options.count)
        print("|")
        with emulated_store(scratch) as store, proxy_of(store.endpoint) as proxy:
            bucket = store.make_bucket()
            for path in sorted(packed.iterdir()):
                store.put(f"{bucket}/packed/{path.name}", path.read_bytes())
            os.environ["STORAGE_EMULATOR_HOST"] = proxy.endpoint
            run = run_infer(workspace, f"{bucket}/packed", options.count)
            print_run(f".{options.kind} in a store on this machine", run, options.count)
            print(f"{len(proxy.requests):,} |")
            proxy.requests.clear()
            run = run_command(workspace, "--steps=infer", f"--infer_images={bucket}/packed")
            print_run("the same, nothing new", run, options.count)
            print(f"{len(proxy.requests):,} |")
        print(f"\nload average {before:.1f} before, {os.getloadavg()[0]:.1f} after")


if __name__ == "__main__":
    main()
