"""Which images a collection holds: roots, walking, identities, labels, and listing files.

Local folders are walked here and not by a glob library: names with brackets, broken links
and names that are not UTF-8 are all found. Every file that is not a companion (`.txt`,
tables, hidden files) counts as an image until its bytes say otherwise, so none is lost
silently.
"""

from __future__ import annotations

import collections
import dataclasses
import datetime
import glob
import hashlib
import itertools
import os
import re
import stat
import urllib.parse
from collections.abc import Callable, Iterable, Iterator, Sequence

import pyarrow
import pyarrow.parquet

from tfrecords import DataError, SplitFractions, normalise_text, split_of, storage

COMPANION_SUFFIXES = (".txt", ".csv", ".tsv", ".jsonl", ".json", ".xml", ".md", ".html", ".yaml", ".yml", ".log")
SIDECAR_SUFFIXES = (".gt.txt", ".txt")
LABEL_SOURCES = ("auto", "filename", "sidecar")

_LISTING_SCHEMA = pyarrow.schema(
    [
        pyarrow.field("uri", pyarrow.string(), nullable=False),
        pyarrow.field("key", pyarrow.string(), nullable=False),
        pyarrow.field("size_bytes", pyarrow.int64(), nullable=False),
        pyarrow.field("modified_us", pyarrow.int64(), nullable=False),
        pyarrow.field("text", pyarrow.string()),
        pyarrow.field("label_problem", pyarrow.string()),
        pyarrow.field("label_detail", pyarrow.string()),
    ]
)
_ROWS_AT_A_TIME = 10_000
_LOOKED_AT = 500


@dataclasses.dataclass(frozen=True)
class ImageReference:
    """One image that was listed, and its label where labels were asked for.

    Attributes:
        uri: URL, or local path as `uri_of_path` writes it.
        key: path from the folder that was named, that folder's own name included; decides
            split and shard, so that a collection can be moved as a whole.
        size_bytes, modified_us: bytes, and microseconds since 1970 UTC; with the URI, its identity.
        text: the label in its `normalise_text` form, or None.
        label_problem, label_detail: why there is no label, or None.
    """

    uri: str
    key: str
    size_bytes: int
    modified_us: int
    text: str | None = None
    label_problem: str | None = None
    label_detail: str | None = None

    @property
    def modified(self) -> datetime.datetime:
        """Time of the last change, UTC."""
        return datetime.datetime.fromtimestamp(self.modified_us / 1e6, datetime.UTC)


@dataclasses.dataclass(frozen=True)
class ListingSummary:
    """What one listing file holds.

    Attributes:
        path: of the listing file.
        images: how many images were listed.
        splits: images by split.
        symbols: occurrences of each symbol in the labels.
        digest: SHA-256 over every row, hexadecimal.
    """

    path: str
    images: int
    splits: dict[str, int]
    symbols: dict[str, int]
    digest: str


def uri_of_path(path: str) -> str:
    """A local path as text: itself, with `%` and bytes that are not UTF-8 percent-encoded."""
    return re.sub("[%\udc80-\udcff]", lambda match: "".join(f"%{byte:02X}" for byte in os.fsencode(match[0])), path)


def path_of_uri(uri: str) -> str:
    """The path or URL that a URI names; the inverse of `uri_of_path` for local paths."""
    if storage.is_remote(uri) or "%" not in uri:
        return uri
    return os.fsdecode(urllib.parse.unquote_to_bytes(uri.encode("utf-8", "surrogateescape")))


def read_image(uri: str) -> bytes:
    """The bytes of a listed image; raises an `OSError` if it cannot be read."""
    path = path_of_uri(uri)
    if not storage.is_remote(path) and not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(f"{uri} is not a regular file")  # a pipe would be read for ever
    return storage.read_bytes(path)


def find_roots(patterns: str, *, flag: str) -> list[str]:
    """The folders and files that a comma-separated list of folders, files and globs names.

    Returns:
        Absolute paths or URLs, sorted, none inside another.

    Raises:
        DataError: naming `flag` and the pattern that matches nothing.
    """
    found: set[str] = set()
    for pattern in (part.strip() for part in patterns.split(",")):
        if not pattern:
            continue
        if storage.is_remote(pattern):
            matches = _remote_matches(pattern)
        else:
            pattern = os.path.abspath(os.path.expanduser(pattern))
            matches = [pattern] if os.path.exists(pattern) else glob.glob(pattern, recursive=True)
        if not matches:
            raise DataError(f"{flag}: nothing matches {pattern!r}; give a folder, a file or a glob that exists")
        found.update(match.rstrip("/") or "/" for match in matches)
    if not found:
        raise DataError(f"{flag} names no folder: give one, several separated by commas, or a glob")
    return [root for root in sorted(found) if found.isdisjoint(_folders_above(root))]


def group_roots(roots: Sequence[str]) -> list[list[str]]:
    """Roots in groups that are listed together: each folder alone, single files by the ten thousand."""
    folders: list[list[str]] = []
    files: list[str] = []
    for root in roots:
        if _is_folder(root):
            folders.append([root])
        else:
            files.append(root)
    return folders + [files[start : start + _ROWS_AT_A_TIME] for start in range(0, len(files), _ROWS_AT_A_TIME)]


def choose_label_source(label_source: str, roots: Iterable[str]) -> tuple[str, str]:
    """Resolves `auto` by looking at the first images.

    Returns:
        `filename` or `sidecar`, and a sentence that says why, empty if there are no images.

    Raises:
        DataError: if some images have a sidecar and others have not.
    """
    if label_source != "auto":
        return label_source, f"labels come from the {label_source}, as --label_source says"
    references = itertools.chain.from_iterable(list_images(root, "sidecar") for root in roots)
    has_sidecar = [reference.label_problem != "no_label" for reference in itertools.islice(references, _LOOKED_AT)]
    images, with_sidecar = len(has_sidecar), sum(has_sidecar)
    if not images:
        return "filename", ""
    if with_sidecar == images:
        return "sidecar", f"labels come from the text file beside each image: all of the first {images} have one"
    if with_sidecar == 0:
        return (
            "filename",
            f"labels come from the file names: none of the first {images} images has a text file beside it",
        )
    raise DataError(
        f"{with_sidecar} of the first {images} images have a text file beside them and the others have none: "
        "say where the labels are with --label_source=sidecar (images without one are rejected) "
        "or --label_source=filename"
    )


def list_images(root: str, label_source: str | None = None) -> Iterator[ImageReference]:
    """Every image at or below a root, in sorted order, with its label if a source is named.

    Args:
        root: absolute path or URL of a folder or one file.
        label_source: `filename`, `sidecar` or None.
    """
    label_of = {None: None, "filename": _label_from_name, "sidecar": _label_from_sidecar}[label_source]
    single = not _is_folder(root)
    if storage.is_remote(root):
        root = _canonical(root)
        files = _walk_remote(root)
    else:
        files = _walk_local(root)
    # Of a single file, the folder that it lies in counts as the one that was named.
    named = root.rpartition("/")[0] if single else root.rstrip("/")
    parent = named.rpartition("/")[0] + "/"
    for folder, names in files:
        present = None if single else {name for name, _, _ in names}
        for name, size, modified_us in names:
            if name.startswith(".") or name.lower().endswith(COMPANION_SUFFIXES):
                continue
            path = storage.join(folder, name) if folder else name
            uri = path if storage.is_remote(path) else uri_of_path(path)
            key_path = path.removeprefix(parent)
            reference = ImageReference(
                uri, key_path if storage.is_remote(path) else uri_of_path(key_path), size, modified_us
            )
            yield _with_label(reference, label_of, path, present) if label_of else reference


def write_listing(
    roots: Sequence[str], destination: str, label_source: str | None, fractions: SplitFractions
) -> ListingSummary:
    """Lists some roots into one Parquet file; memory grows with the largest folder's names alone.

    Raises:
        DataError: if a folder cannot be listed.
    """
    digest = hashlib.sha256()
    splits: collections.Counter[str] = collections.Counter()
    symbols: collections.Counter[str] = collections.Counter()
    with storage.open_atomically(destination) as file, pyarrow.parquet.ParquetWriter(file, _LISTING_SCHEMA) as writer:
        rows: list[dict] = []
        for reference in itertools.chain.from_iterable(list_images(root, label_source) for root in roots):
            row = dataclasses.asdict(reference)
            digest.update(repr(tuple(row.values())).encode())
            splits[split_of(reference.key, fractions)] += 1
            symbols.update(reference.text or "")
            rows.append(row)
            if len(rows) == _ROWS_AT_A_TIME:
                writer.write_table(pyarrow.Table.from_pylist(rows, _LISTING_SCHEMA))
                rows.clear()
        writer.write_table(pyarrow.Table.from_pylist(rows, _LISTING_SCHEMA))
    return ListingSummary(
        destination, splits.total(), dict(sorted(splits.items())), dict(sorted(symbols.items())), digest.hexdigest()
    )


def merge_listings(summaries: Iterable[ListingSummary]) -> ListingSummary:
    """All listing files as one: `path` is empty, the digest covers the files' digests in sorted order."""
    ordered = sorted(summaries, key=lambda summary: summary.path)
    splits: collections.Counter[str] = collections.Counter()
    symbols: collections.Counter[str] = collections.Counter()
    digest = hashlib.sha256()
    for summary in ordered:
        splits.update(summary.splits)
        symbols.update(summary.symbols)
        digest.update(summary.digest.encode())
    return ListingSummary(
        "",
        sum(summary.images for summary in ordered),
        dict(sorted(splits.items())),
        dict(sorted(symbols.items())),
        digest.hexdigest(),
    )


def read_listing(path: str) -> Iterator[ImageReference]:
    """The references in a listing file, in its order."""
    with storage.open_to_read(path) as file, pyarrow.parquet.ParquetFile(file) as listing:
        for batch in listing.iter_batches(_ROWS_AT_A_TIME):
            for row in batch.to_pylist():
                yield ImageReference(**row)


def _with_label(
    reference: ImageReference,
    label_of: Callable[[str, set[str] | None], bytes | None],
    path: str,
    present: set[str] | None,
) -> ImageReference:
    try:
        raw = label_of(path, present)
    except OSError as error:
        return dataclasses.replace(
            reference, label_problem="no_label", label_detail=f"its label cannot be read: {error}"
        )
    if raw is None:
        detail = f"no {' or '.join(SIDECAR_SUFFIXES)} file lies beside the image"
        return dataclasses.replace(reference, label_problem="no_label", label_detail=detail)
    try:
        text = normalise_text(raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        return dataclasses.replace(reference, label_problem="label_not_text", label_detail=str(error))
    if not text:
        return dataclasses.replace(reference, label_problem="empty_label", label_detail=f"the label is {raw!r}")
    return dataclasses.replace(reference, text=text)


def _label_from_name(path: str, _present: set[str] | None) -> bytes:
    return os.fsencode(os.path.splitext(os.path.basename(path))[0])


def _label_from_sidecar(path: str, present: set[str] | None) -> bytes | None:
    """The text file beside an image; `present` are the names in its folder, where they are known."""
    stem = os.path.splitext(path)[0]
    for suffix in SIDECAR_SUFFIXES:
        sidecar = stem + suffix
        if storage.exists(sidecar) if present is None else os.path.basename(sidecar) in present:
            return storage.read_bytes(sidecar)
    return None


def _walk_local(root: str) -> Iterator[tuple[str, list[tuple[str, int, int]]]]:
    """Folders in sorted order, each with its files' names, sizes and times; links are followed, each folder once."""
    if not os.path.isdir(root):
        yield os.path.dirname(root), [_local_entry(root)]
        return
    seen: set[tuple[int, int]] = set()

    def fail(error: OSError) -> None:
        raise DataError(
            f"cannot list the folder {error.filename!r} ({error.strerror}): give it read access or leave it out"
        )

    for folder, subfolders, names in os.walk(root, followlinks=True, onerror=fail):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            subfolders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        yield folder, [_local_entry(os.path.join(folder, name)) for name in sorted(names)]


def _local_entry(path: str) -> tuple[str, int, int]:
    try:
        status = os.stat(path)
    except OSError:
        status = os.lstat(path)  # a broken link is listed, and rejected when it is read
    return os.path.basename(path), status.st_size, status.st_mtime_ns // 1000


def _walk_remote(root: str) -> Iterator[tuple[str, list[tuple[str, int, int]]]]:
    fs = storage.filesystem(root)
    folders: dict[str, list[tuple[str, int, int]]] = collections.defaultdict(list)
    for path, info in sorted(fs.find(root, detail=True).items()):
        folder, _, name = fs.unstrip_protocol(path).rpartition("/")
        if any(part.startswith(".") for part in folder.removeprefix(root).split("/")):
            continue
        modified = info.get("mtime") or info.get("updated") or info.get("created")
        if isinstance(modified, str):
            modified = datetime.datetime.fromisoformat(modified)
        seconds = modified.timestamp() if isinstance(modified, datetime.datetime) else float(modified or 0)
        modified_us = round(seconds * 1e6)
        folders[folder].append((name, int(info["size"] or 0), modified_us))
    yield from sorted(folders.items())


def _folders_above(path: str) -> Iterator[str]:
    """Every folder that a path lies in, the root folder `/` included."""
    while "/" in path.rstrip("/"):
        path = path.rstrip("/").rpartition("/")[0]
        yield path or "/"


def _is_folder(root: str) -> bool:
    return storage.filesystem(root).isdir(root) if storage.is_remote(root) else os.path.isdir(root)


def _canonical(url: str) -> str:
    """A URL as its file system's own listings write it."""
    fs = storage.filesystem(url)
    return fs.unstrip_protocol(fs._strip_protocol(url))


def _remote_matches(pattern: str) -> list[str]:
    fs = storage.filesystem(pattern)
    if fs.exists(pattern):
        return [pattern]
    return [fs.unstrip_protocol(match) for match in fs.glob(pattern)]
