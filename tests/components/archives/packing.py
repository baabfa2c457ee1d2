"""Archives for the tests: of every kind, honest and hostile."""

import gzip
import io
import pathlib
import tarfile
import zipfile
from collections.abc import Mapping

import pyarrow

KINDS = ("a.tar", "a.tar.gz", "a.tar.zst", "a.zip", "stored.zip")


def make_tar(files: Mapping[str, bytes]) -> bytes:
    """Packs files into a tar file, in their order."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


def make_zip(files: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """Packs files into a ZIP file, in their order."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return packed.getvalue()


def compress_zstd(content: bytes) -> bytes:
    """Compresses bytes by zstd."""
    packed = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(packed, "zstd") as file:
        file.write(content)
    return packed.getvalue().to_pybytes()


def pack(name: str, files: Mapping[str, bytes]) -> bytes:
    """Packs files into the kind of archive that a name of `KINDS` says."""
    if name.endswith(".zip"):
        return make_zip(files, zipfile.ZIP_STORED if name.startswith("stored") else zipfile.ZIP_DEFLATED)
    packed = make_tar(files)
    if name.endswith(".gz"):
        return gzip.compress(packed)
    return compress_zstd(packed) if name.endswith(".zst") else packed


def put_archive(folder: pathlib.Path, name: str, files: Mapping[str, bytes]) -> str:
    """Writes an archive of a kind of `KINDS`; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(pack(name, files))
    return str(folder / name)
