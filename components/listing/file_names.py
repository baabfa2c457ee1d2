"""File names that do not look like labels: those that cameras, scanners and programs make."""

from __future__ import annotations

import collections
import itertools
import math
import re
import statistics
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from components.listing.copies import find_original_name
from components.listing.references import strip_suffix

_LEAST_NAMES = 10  # fewer say nothing
_MOST = 0.9
_DENSE = 0.5  # of the numbers from the lowest to the highest, those that are there
_LEAST_IN_A_FOLDER = 4
_LEAST_OF_A_SHAPE = 5
_FEW_SHAPES = 5
_LEAST_SIZES = 30
_WIDE_SPREAD = 3.0  # ratio of the 9th to the 1st decile of the images' aspects
_LEAST_CORRELATION = 0.15
_WIDEST_SYMBOL = 8.0  # in heights of the line

_DATE = re.compile(  # 20240512, 2024-05-12, 20240512101500
    r"(?<!\d)(19|20)\d\d([-_.]?)(0[1-9]|1[0-2])\2(0[1-9]|[12]\d|3[01])(?=\D|$|\d{4}(\D|$)|\d{6}(\D|$)|\d{9}(\D|$))"
)
_EPOCH = re.compile(r"\D*1[0-9]{9}(\d{3}|\d{6}|\d{9})?\D*")  # since 1970; 10 digits are seconds
_UUID = re.compile(r"[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}", re.IGNORECASE)
_HASH = re.compile(r"[0-9a-f]{8,}|[0-9A-F]{16,}")
_COUNTED = re.compile(r".*[^\d_].*_\d+|\d+_.*[^\d_].*", re.DOTALL)  # AB12_0001, 0001_AB12, 115_Lube_45484
_NUMBERS = re.compile(r"0000\d+|\d+(_\d+)+")  # 000000000139, 188_2260
_NUMBERED = re.compile(r"\D*[^\W\d_]\D*\d.*", re.DOTALL)  # a letter comes before the first digit


def explain_names(paths: Sequence[str], total: int, find_size: Callable[[str], tuple[int, int] | None]) -> str | None:
    """Explains why the names of images do not look like labels; returns None if they do, or are too few to tell.

    Args:
        paths: paths or URLs of images, all or every n-th of a collection.
        total: number of images in the collection.
        find_size: returns width and height of an image in pixels, or None if its first bytes do not tell.
    """
    split = [path.rpartition("/") for path in paths]
    stems = [strip_suffix(name) for _, _, name in split]
    distinct = list(dict.fromkeys(stems))
    if len(stems) < _LEAST_NAMES:
        return None
    if is_most(distinct, _UUID.fullmatch) or _are_hashes(distinct):
        return "they look like hashes or random identifiers"
    if is_most(distinct, _DATE.search) or (is_most(distinct, _EPOCH.fullmatch) and _begin_alike(distinct, 2)):
        return "they look like dates or times"
    every = max(1, round(total / len(stems)))
    folders: dict[str, list[str]] = collections.defaultdict(list)
    for (folder, _, _), stem in zip(split, stems, strict=True):
        folders[folder].append(stem)
    running = sum(len(names) for names in folders.values() if _is_dense(names, every))
    if running >= _MOST * len(stems) or is_most(distinct, _NUMBERS.fullmatch):
        return "they are running numbers"
    if _are_numbered(distinct, every):
        return "they are a few fixed words with a number"
    if is_most(distinct, _COUNTED.fullmatch):
        return "they have a number that counts; if a label stands beside it, --label_pattern says where"
    if is_most(distinct, find_original_name):
        return "they are the names of copies"
    if sum(len(names) for names in folders.values() if _find_common_words(names)) >= _MOST * len(stems):
        begin = max((_find_common_words(names), len(names)) for names in folders.values())[0]
        return f"all those of a folder begin alike, such as with {begin!r}"
    if sum(map(_begins_like_folder, paths)) >= _MOST * len(paths):
        return "they begin with the names of their folders"
    return _contradict_sizes(paths, stems, find_size)


def is_most(names: Sequence[str], check: Callable[[str], object]) -> bool:
    """Tells whether most names pass a check."""
    return sum(bool(check(name)) for name in names) >= _MOST * len(names)


def _are_hashes(names: Sequence[str]) -> bool:
    if is_most(names, _HASH.fullmatch):
        mixed = sum(bool(re.search("[a-fA-F]", name) and re.search("[0-9]", name)) for name in names)
        return mixed > 0.7 * len(names)
    lengths = collections.Counter(map(len, names))
    length, alike = lengths.most_common(1)[0]
    kinds = ("[a-z]", "[A-Z]", "[0-9]")
    mixed = sum(bool(re.fullmatch(r"[\w-]+", name) and all(re.search(kind, name) for kind in kinds)) for name in names)
    return length >= 10 and alike >= _MOST * len(names) and mixed > 0.7 * len(names)


def _begin_alike(names: Sequence[str], symbols: int) -> bool:
    digits = collections.Counter(re.sub(r"\D", "", name)[:symbols] for name in names)
    return digits.most_common(1)[0][1] >= _MOST * len(names)


def _is_dense(names: Sequence[str], every: int) -> bool:
    """Tells whether the names of a folder are numbers, most of a range.

    Args:
        every: only every n-th name is here.
    """
    numbers = {int(name) for name in names if re.fullmatch("[0-9]{1,18}", name)}
    return len(numbers) >= max(_LEAST_IN_A_FOLDER, _MOST * len(names)) and _fills_range(numbers, every, _DENSE)


def _fills_range(numbers: Iterable[int], every: int, share: float) -> bool:
    """Tells whether numbers are at least a share of all from the lowest to the highest, or steps of one width."""
    ordered = sorted(set(numbers))
    if len(ordered) < _LEAST_IN_A_FOLDER:
        return False
    steps = collections.Counter(after - before for before, after in itertools.pairwise(ordered))
    even = steps.most_common(1)[0][1] >= share * len(ordered)
    return even or len(ordered) * every >= share * (ordered[-1] - ordered[0] + 1)


def _are_numbered(names: Sequence[str], every: int) -> bool:
    """Tells whether names are some fixed words with numbers, as `IMG_0001` or `page3_line12`.

    After a space, or with more than a few words, only running numbers count, or those with leading zeros:
    `Room 101` and `B4711` may well be labels.
    """
    alike: dict[str, list[str]] = collections.defaultdict(list)
    for name in names:
        if _NUMBERED.fullmatch(name):
            alike[re.sub(r"\d+", "0", name)].append(name)
    known = {shape: group for shape, group in alike.items() if len(group) >= _LEAST_OF_A_SHAPE}
    numbered = 0
    for shape, group in known.items():
        numbers = [re.findall(r"(\d+)(?:[.,]\d+)?", name)[-1] for name in group]
        different = len(set(numbers)) >= _MOST * len(numbers)
        padded = sum(number.startswith("0") for number in numbers) > 0.2 * len(numbers)
        unlikely = " 0" not in shape and len(known) <= _FEW_SHAPES
        if unlikely or padded or (different and _fills_range(map(int, numbers), every, _DENSE)):
            numbered += len(group)
    return numbered >= _MOST * len(names)


def _find_common_words(names: Sequence[str]) -> str:
    """Finds what all names begin with, up to the last `_` or `-` in it; empty unless it has some letters."""
    if len(names) < _LEAST_NAMES:
        return ""
    first, last = min(names), max(names)
    length = next((place for place, pair in enumerate(zip(first, last)) if pair[0] != pair[1]), 0)  # noqa: B905
    prefix = re.sub(r"[^_-]*\Z", "", first[:length])
    return prefix if sum(map(str.isalpha, prefix)) >= (3 if "_" in prefix else 5) else ""


def _begins_like_folder(path: str) -> bool:
    folder, _, name = path.rpartition("/")
    above = folder.rpartition("/")[2]
    return len(above) >= 3 and name.startswith(above) and strip_suffix(name) != above


def _contradict_sizes(
    paths: Sequence[str], stems: Sequence[str], find_size: Callable[[str], tuple[int, int] | None]
) -> str | None:
    """Explains how the images' widths contradict their names: long labels stand on wide images."""
    step = math.ceil(len(paths) / 200)
    measured = [
        (len(stem), size[0] / size[1], size)
        for path, stem in zip(paths[::step], stems[::step], strict=True)
        if stem and (size := find_size(path)) is not None and min(size) > 0
    ]
    if len(measured) < _LEAST_SIZES:
        return None
    lengths, aspects, _ = zip(*measured, strict=True)
    widths = [aspect / length for length, aspect in zip(lengths, aspects, strict=True)]
    if statistics.median(widths) > _WIDEST_SYMBOL:
        return (
            f"they are too short for the images, which are {statistics.median(aspects):.0f} times as wide as high "
            f"where a name has {statistics.median(lengths):.0f} symbols"
        )
    deciles = statistics.quantiles(aspects, n=10)
    if deciles[-1] < _WIDE_SPREAD * deciles[0]:
        return None
    if len(set(lengths)) > 1 and _correlate_ranks(lengths, aspects) >= _LEAST_CORRELATION:
        return None
    return (
        "the images' widths contradict them: a tenth of the images is less than "
        f"{deciles[0]:.1f} times as wide as high and a tenth more than {deciles[-1]:.1f} times, "
        "but wide images have no longer names"
    )


def _correlate_ranks(first: Sequence[float], second: Sequence[float]) -> float:
    """Correlates two rows of numbers by the ranks of their values, from -1 to 1 (Spearman 1904)."""
    ranks = np.array([np.unique(values, return_inverse=True)[1] for values in (first, second)])
    return float(np.corrcoef(ranks)[0, 1])
