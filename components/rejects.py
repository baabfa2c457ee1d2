"""Rejects: images that were left out, with the reason, in one schema for ingest and inference."""

from __future__ import annotations

import collections
import dataclasses
import datetime
from collections.abc import Iterable, Mapping, Sequence

import pyarrow
import pyarrow.parquet

from tfrecords import storage

REASONS = {
    "unreadable": "the file cannot be opened or read, or was gone when its turn came",
    "empty_file": "the file has 0 bytes",
    "not_an_image": "its bytes are no image format that is read here, whatever its name says",
    "truncated": "the image ends early or is damaged",
    "too_large": "too many bytes or pixels, too wide a line, or too much memory to decode it: see the --max_ flags",
    "too_slow": "reading and decoding it takes too long: see --max_decode_seconds",
    "crashed": "the process that decoded it was ended by it, or twice while it decoded it",
    "too_small": "too few pixels on one side to be a line",
    "several_images": "an animation or a file of several pages",
    "unsupported_pixels": "pixel values without a fixed black and white",
    "no_label": "no label was found for the image",
    "empty_label": "the label has no symbols; --empty_labels keeps those of blank fields",
    "label_not_text": "the label's bytes are not UTF-8, or it has control characters",
    "symbol_not_in_charset": "the label has a symbol that the given charset lacks",
    "several_lines": "the label has more than one line of text",
    "conflicting_labels": "rows of a table give the image different labels",
    "no_group": "the table has nothing in the column that --split_by names",
    "no_split": "the collection gives splits, but none to the image, or several: see --split_by",
    "label_too_long": "the label needs more time steps than the image's width gives, or has too many symbols",
    "several_page_files": "several page files (ALTO, PAGE or boxes) belong to this image",
    "no_page_file": "no page file (ALTO, PAGE or boxes) names this image, or is named like it",
    "damaged_page_file": "the page file (ALTO, PAGE or boxes), or the line in it, cannot be read",
    "no_lines": "the page file gives no lines for this image",
    "other_size": "page file and image have different sizes",
    "no_outline": "the page file gives neither a polygon nor a box for the line, nor baselines to tell its height by",
    "empty_outline": "the line's outline in the page file has no area",
    "outside_page": "the line's outline in the page file lies wholly outside the image",
    "damaged_archive": "not an image, but an archive that cannot be read to its end; members behind that are unknown",
    "unusable_member": "a member of an archive that is not read: a link, encrypted, or another archive",
    "changed_since": "the image or its page file was changed after it was read, and not read again yet",
    "not_in_xml": "the text has a symbol that XML files cannot hold",
    "unreadable_folder": "a folder that cannot be listed; its images are unknown, and it counts as one",
    "no_image": "not an image, but a label: the image that it belongs to is not there",
    "damaged_row": "not an image, but a row of a table that cannot be read",
}

REJECTS_SCHEMA = pyarrow.schema(
    [
        pyarrow.field("uri", pyarrow.string(), nullable=False),
        pyarrow.field("step", pyarrow.string(), nullable=False),
        pyarrow.field("reason", pyarrow.string(), nullable=False),
        pyarrow.field("detail", pyarrow.string(), nullable=False),
        pyarrow.field("run_id", pyarrow.string(), nullable=False),
        pyarrow.field("at", pyarrow.timestamp("us", tz="UTC"), nullable=False),
        pyarrow.field("size_bytes", pyarrow.int64()),
        pyarrow.field("modified", pyarrow.timestamp("us", tz="UTC")),
    ]
)


@dataclasses.dataclass(frozen=True)
class Reject:
    """An image that was left out.

    Attributes:
        uri: of the image.
        reason: one of `REASONS`.
        detail: what was wrong with it, in words.

    Raises:
        ValueError: for a reason that is not in `REASONS`.
    """

    uri: str
    reason: str
    detail: str

    def __post_init__(self) -> None:
        if self.reason not in REASONS:
            raise ValueError(f"{self.reason!r} is not a known reason: {', '.join(REASONS)}")


def make_rejects_table(
    rejects: Sequence[Reject],
    *,
    step: str,
    run_id: str,
    at: datetime.datetime,
    files: Sequence[tuple[int, int]] | None = None,
) -> pyarrow.Table:
    """Makes the rows of a rejects file, in the order given.

    Args:
        step: that left the images out.
        run_id: of the dataset or the run.
        at: the time of the step, UTC.
        files: bytes of each image, and microseconds since 1970 UTC of its last change; None if the file that was
            looked at is not known.
    """
    sizes, modified = zip(*files, strict=True) if files else ([None] * len(rejects),) * 2
    return pyarrow.table(
        {
            "uri": [reject.uri for reject in rejects],
            "step": [step] * len(rejects),
            "reason": [reject.reason for reject in rejects],
            "detail": [reject.detail for reject in rejects],
            "run_id": [run_id] * len(rejects),
            "at": [at] * len(rejects),
            "size_bytes": pyarrow.array(sizes, pyarrow.int64()),
            "modified": pyarrow.array(modified, pyarrow.int64()).cast(REJECTS_SCHEMA.field("modified").type),
        },
        schema=REJECTS_SCHEMA,
    )


def count_by_reason(rejects: Iterable[Reject]) -> dict[str, int]:
    """Counts the images that were left out for each reason, sorted by reason."""
    return dict(sorted(collections.Counter(reject.reason for reject in rejects).items()))


def explain_too_many_rejects(rejects: dict[str, int], matched: int, max_fraction: float, *, where: str) -> str | None:
    """Explains a refusal in one sentence if more than `max_fraction` of the images were left out; else returns None.

    Args:
        rejects: images left out, by reason.
        matched: images of which `max_fraction` may be left out.
        where: the files that list them.
    """
    count = sum(rejects.values())
    if not matched or count / matched <= max_fraction:
        return None
    reasons = ", ".join(f"{number} {reason}" for reason, number in sorted(rejects.items(), key=lambda item: -item[1]))
    return (
        f"{count} of {matched} images ({count / matched:.1%}) were rejected ({reasons}), more than "
        f"--max_reject_fraction={max_fraction:g} allows; each is listed with its reason in {where}"
    )


def find_example(paths: Iterable[str], rejects: Mapping[str, int]) -> str:
    """Finds an image with the most frequent reason in files of rejects; returns its URI and what was wrong."""
    reason = max(rejects, key=lambda reason: rejects[reason])
    for path in paths:
        with storage.open_to_read(path) as file, pyarrow.parquet.ParquetFile(file) as table:
            for batch in table.iter_batches(columns=["uri", "reason", "detail"]):
                for row in batch.to_pylist():
                    if row["reason"] == reason:
                        return f"{row['uri']}: {row['detail']}"
    raise ValueError(f"no file has an image that was rejected as {reason}")
