"""Mutations of image files: of bytes, and of what a format is made of, with its checksums and lengths mended.

A number and a seed say all about a mutated image: the same ones make the same bytes.
"""

from __future__ import annotations

import functools
import random
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from tests.bombs import BOMBS
from tests.fuzzing.seeds import PNG_SIGNATURE, make_png_chunk

MOST_BYTES = 300_000
"""A mutated image has no more bytes, except for one that repeats a part of itself."""
_MUTATIONS = (1, 1, 1, 2, 2, 3, 4)
_BOMB_EVERY = 1000
"""One image of so many is made of a bomb: each costs seconds."""
_BOMBS = ("scans.jpg", "exif.jpg", "comment.gif", "run-lengths.bmp", "comments.pgm", "directory.tif")
_FLIPPED = "flipped bits"
_EXTREMES = (0, 1, 2, 3, 7, 8, 255, 256, 4096, 32_767, 32_768, 65_535, 65_536, 1_000_000, 20_000_000, (1 << 31) - 1)
_EXTREMES = (*_EXTREMES, 1 << 31, (1 << 32) - 1)
_BYTES = (0, 1, 0x0A, 0x20, 0x7F, 0x80, 0xD8, 0xDA, 0xFE, 0xFF)
_MANY = (2, 3, 17, 300, 5000)
_SUFFIXES = (".png", ".jpg", ".tif", ".bmp", ".gif", ".webp", ".pgm", ".jp2", ".PNG", ".avif", ".scan", "")
_PNG_HEADERS = (b"IHDR", b"PLTE", b"tRNS", b"eXIf", b"iCCP", b"gAMA", b"acTL", b"fcTL", b"fdAT", b"zTXt", b"tEXt")
_JPEG_MARKERS = (*range(0xC0, 0xD0), 0xD8, 0xD9, *range(0xDA, 0xE3), 0xEE, 0xFE)
_TIFF_TAGS = (254, 256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 292, 317, 320, 322, 323, 324, 325, 330)
_TIFF_TAGS = (*_TIFF_TAGS, 274, 332, 338, 339, 347, 512, 513, 529, 530, 532, 33723, 34377, 34665, 34675, 34853)

Parts: TypeAlias = list[bytes]


class MutatedImage(NamedTuple):
    """A file that was made of a seed.

    Attributes:
        number: says, with the seed of the chooser, all about it.
        name: of the file, whose suffix is often a lie.
        seed: the name of what it was made of.
        changes: what was done to it, in order.
        content: its bytes.
    """

    number: int
    name: str
    seed: str
    changes: tuple[str, ...]
    content: bytes

    @property
    def format(self) -> str:
        """The format of its seed."""
        return self.seed.partition("-")[0]


class Mutator:
    """Makes mutated images of seeds, and at regular numbers one of a bomb.

    Args:
        seeds: whole files by their names, `FORMAT-VARIETY`.
        seed: of all choices.
    """

    def __init__(self, seeds: Mapping[str, bytes], seed: int) -> None:
        self._seeds = dict(seeds)
        self._names = list(seeds)
        self._seed = seed

    def make(self, number: int) -> MutatedImage:
        """Makes the mutated image of a number: numbers that follow each other go through the seeds in turn."""
        chooser = random.Random(f"{self._seed} {number}")
        if number % _BOMB_EVERY == _BOMB_EVERY - 1:
            bomb = _BOMBS[number // _BOMB_EVERY % len(_BOMBS)]
            content = _flip_bits(chooser, _make_bomb(bomb))
            return MutatedImage(
                number, f"{number:07d}{chooser.choice(_SUFFIXES)}", f"bomb-{bomb}", (_FLIPPED,), content
            )
        name = self._names[number % len(self._names)]
        content, changes = self._seeds[name], []
        for _ in range(chooser.choice(_MUTATIONS)):
            if not content:
                break
            kind, changed = self._mutate(chooser, name, content)
            if changed != content:
                content = changed
                changes.append(kind)
        return MutatedImage(number, f"{number:07d}{chooser.choice(_SUFFIXES)}", name, tuple(changes), content)

    def _mutate(self, chooser: random.Random, name: str, content: bytes) -> tuple[str, bytes]:
        form = name.partition("-")[0]
        if form in _FORMATS and chooser.random() < (0.9 if form == "png" else 0.6):  # a PNG has checksums
            try:
                return self._mutate_format(chooser, form, content)
            except (struct.error, IndexError, ValueError, zlib.error):  # it is too much damaged for this already
                pass
        kind, mutate = chooser.choice(_OF_BYTES)
        if mutate is None:
            other = self._seeds[chooser.choice(self._names)]
            return kind, content[: chooser.randrange(len(content))] + other[chooser.randrange(len(other)) :]
        return kind, mutate(chooser, content)

    def _mutate_format(self, chooser: random.Random, form: str, content: bytes) -> tuple[str, bytes]:
        """Changes a file as one who knows its format does.

        Raises:
            IndexError, ValueError, struct.error, zlib.error: if the file is damaged too much for that.
        """
        split, join, change = _FORMATS[form]
        if split is None or (change is not None and chooser.random() < 0.6):
            assert change is not None
            return f"field of {form}", change(chooser, content)
        parts = split(content)
        kin = [seed for seed in self._names if seed.startswith(form)]
        others = split(self._seeds[chooser.choice(kin)])
        kind, changed = _change_parts(chooser, parts, others)
        return f"{kind} of {form}", join(changed)


@functools.cache
def _make_bomb(name: str) -> bytes:
    return BOMBS[name]()


def _flip_bits(chooser: random.Random, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(chooser.choice((1, 1, 2, 4, 16))):
        changed[chooser.randrange(len(changed))] ^= 1 << chooser.randrange(8)
    return bytes(changed)


def _set_bytes(chooser: random.Random, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(chooser.choice((1, 1, 2, 8))):
        changed[chooser.randrange(len(changed))] = chooser.choice(_BYTES)
    return bytes(changed)


def _set_number(chooser: random.Random, content: bytes) -> bytes:
    """Overwrites a field of 2 or 4 bytes, in the first part of the file as likely as in all of it."""
    wide = chooser.choice((2, 4))
    end = min(len(content), 64) if chooser.random() < 0.5 else len(content)
    return _overwrite(content, chooser.randrange(max(1, end - wide + 1)), _pack_extreme(chooser, wide))


def _pack_extreme(chooser: random.Random, wide: int, order: str = "") -> bytes:
    value = chooser.choice(_EXTREMES) & ((1 << 8 * wide) - 1)
    return value.to_bytes(wide, {"<": "little", ">": "big"}.get(order, chooser.choice(("little", "big"))))


def _overwrite(content: bytes, place: int, piece: bytes) -> bytes:
    return content[:place] + piece + content[place + len(piece) :]


def _delete(chooser: random.Random, content: bytes) -> bytes:
    start, end = _choose_range(chooser, content)
    return content[:start] + content[end:]


def _repeat(chooser: random.Random, content: bytes) -> bytes:
    start, end = _choose_range(chooser, content)
    times = min(chooser.choice(_MANY), MOST_BYTES // max(1, end - start))
    return content[:start] + content[start:end] * max(2, times) + content[end:]


def _swap(chooser: random.Random, content: bytes) -> bytes:
    a, b, c, d = sorted(chooser.randrange(len(content) + 1) for _ in range(4))
    return content[:a] + content[c:d] + content[b:c] + content[a:b] + content[d:]


def _insert_noise(chooser: random.Random, content: bytes) -> bytes:
    place = chooser.randrange(len(content) + 1)
    return content[:place] + chooser.randbytes(chooser.choice((1, 2, 4, 64, 1000))) + content[place:]


def _truncate(chooser: random.Random, content: bytes) -> bytes:
    return content[: chooser.randrange(len(content) + 1)]


def _replace_tail(chooser: random.Random, content: bytes) -> bytes:
    start = chooser.randrange(len(content))
    return content[:start] + bytes([chooser.choice(_BYTES)]) * (len(content) - start)


def _change_digits(chooser: random.Random, content: bytes) -> bytes:
    """Overwrites a number that is written in digits, such as in the header of a PNM."""
    numbers = [place for place in range(min(len(content), 200)) if content[place : place + 1].isdigit()]
    if not numbers:
        return _set_bytes(chooser, content)
    place = chooser.choice(numbers)
    return content[:place] + str(chooser.choice(_EXTREMES)).encode() + content[place + 1 :]


def _choose_range(chooser: random.Random, content: bytes) -> tuple[int, int]:
    start = chooser.randrange(len(content))
    return start, min(len(content), start + chooser.choice((1, 2, 4, 12, 64, 1000)))


_OF_BYTES: tuple[tuple[str, Callable[[random.Random, bytes], bytes] | None], ...] = (
    (_FLIPPED, _flip_bits),
    (_FLIPPED, _flip_bits),
    ("bytes of interest", _set_bytes),
    ("an extreme number", _set_number),
    ("an extreme number", _set_number),
    ("extreme digits", _change_digits),
    ("deleted bytes", _delete),
    ("repeated bytes", _repeat),
    ("swapped ranges", _swap),
    ("inserted noise", _insert_noise),
    ("a cut", _truncate),
    ("one byte to the end", _replace_tail),
    ("spliced files", None),
)


def _change_parts(chooser: random.Random, parts: Parts, others: Parts) -> tuple[str, Parts]:
    """Deletes, repeats, swaps, changes or takes over one of the parts of a file."""
    place = chooser.randrange(len(parts))
    part, parts = parts[place], list(parts)
    kind = chooser.choice(("deleted part", "repeated part", "moved part", "changed part", "changed part", "taken part"))
    if kind == "deleted part":
        del parts[place]
    elif kind == "repeated part":
        times = min(chooser.choice(_MANY), MOST_BYTES // max(1, len(part)))
        parts[place : place + 1] = [part] * max(2, times)
    elif kind == "moved part":
        parts.insert(chooser.randrange(len(parts)), parts.pop(place))
    elif kind == "taken part":
        parts.insert(place, chooser.choice(others))
    elif part:
        parts[place] = chooser.choice((_flip_bits, _set_number, _set_bytes, _truncate, _repeat))(chooser, part)
    return kind, parts


def split_png(content: bytes) -> Parts:
    """Splits a PNG into its chunks, each its kind and what it holds."""
    parts, place = [], len(PNG_SIGNATURE)
    while place + 12 <= len(content):
        (length,) = struct.unpack_from(">I", content, place)
        parts.append(content[place + 4 : place + 8 + length])
        place += 12 + length
    return parts


def join_png(parts: Sequence[bytes]) -> bytes:
    """Joins chunks to a PNG, each with its length and its checksum."""
    return PNG_SIGNATURE + b"".join(make_png_chunk(part[:4], part[4:]) for part in parts)


def _change_png(chooser: random.Random, content: bytes) -> bytes:
    """Changes a field of the header, what is compressed, or which chunks there are; all checksums are right."""
    parts = split_png(content)
    way = chooser.randrange(5)
    if way == 0:
        place = chooser.choice((0, 4))
        parts[0] = _overwrite(parts[0], 4 + place, _pack_extreme(chooser, 4, ">"))
    elif way == 1:
        kind = struct.pack("BBBBB", *(chooser.choice((0, 1, 2, 3, 4, 6, 8, 16)) for _ in range(2)), 0, 0, 1)
        parts[0] = parts[0][:12] + kind[:4] + bytes([chooser.choice((0, 1, 2))])
    elif way in (2, 3):
        place = [part[:4] for part in parts].index(b"IDAT")
        rows = zlib.decompress(b"".join(part[4:] for part in parts if part[:4] == b"IDAT"))
        changed = chooser.choice((_flip_bits, _set_bytes, _truncate, _repeat, _swap))(chooser, rows)
        parts = [part for part in parts if part[:4] != b"IDAT"]
        parts.insert(place, b"IDAT" + zlib.compress(changed))
    else:
        size = chooser.choice((0, 1, 2, 6, 12, 26, 768))
        parts.insert(chooser.randrange(len(parts)), chooser.choice(_PNG_HEADERS) + chooser.randbytes(size))
    return join_png(parts)


def _split_jpeg(content: bytes) -> Parts:
    """Splits a JPEG into its segments, each from its marker on; what is coded follows the start of its scan."""
    starts = [place for place in range(len(content) - 1) if content[place] == 0xFF and content[place + 1] >= 0xC0]
    return [content[a:b] for a, b in zip(starts, [*starts[1:], len(content)], strict=True)]


def _change_jpeg(chooser: random.Random, content: bytes) -> bytes:
    """Changes the size, the length or the marker of a segment, or repeats a scan."""
    parts = _split_jpeg(content)
    frames = [i for i, part in enumerate(parts) if part[1] in (0xC0, 0xC1, 0xC2) and len(part) > 12]
    place = chooser.randrange(len(parts))
    way = chooser.randrange(5)
    if way == 0:
        place = chooser.choice(frames)
        parts[place] = _overwrite(parts[place], chooser.choice((5, 7)), _pack_extreme(chooser, 2, ">"))
    elif way == 1:
        place = chooser.choice(frames)
        parts[place] = _overwrite(parts[place], chooser.randrange(4, len(parts[place])), _pack_extreme(chooser, 1))
    elif way == 2:
        parts[place] = parts[place][:2] + _pack_extreme(chooser, 2, ">") + parts[place][4:]
    elif way == 3:
        parts[place] = parts[place][:1] + bytes([chooser.choice(_JPEG_MARKERS)]) + parts[place][2:]
    else:
        scans = [part for part in parts if part[1] == 0xDA]
        parts[-1:-1] = [chooser.choice(scans)] * chooser.choice(_MANY[:4])
    return b"".join(parts)


def _change_tiff(chooser: random.Random, content: bytes) -> bytes:
    """Changes an entry of a directory: its tag, its type, its count or its value; or where the next directory is."""
    order = "<" if content[:2] == b"II" else ">"
    (start,) = struct.unpack_from(f"{order}I", content, 4)
    (entries,) = struct.unpack_from(f"{order}H", content, start)
    if entries > 100:  # it is a large TIFF, or damaged
        raise ValueError(entries)
    place = start + 2 + 12 * chooser.randrange(entries)
    way = chooser.randrange(6)
    if way == 0:
        return _overwrite(content, place, struct.pack(f"{order}H", chooser.choice(_TIFF_TAGS)))
    if way == 1:
        return _overwrite(content, place + 2, struct.pack(f"{order}H", chooser.randrange(20)))
    if way == 2:
        return _overwrite(content, place + 4, _pack_extreme(chooser, 4, order))
    if way == 3:
        return _overwrite(content, place + 8, _pack_extreme(chooser, 4, order))
    if way == 4:
        values = (1, 2, 3, 4, 5, 6, 7, 8, 16, 32, 50000, 32773, 34892, start, len(content))
        return _overwrite(content, place + 8, struct.pack(f"{order}I", chooser.choice(values)))
    places = (0, 4, 8, start, start + 2, len(content) - 2)
    return _overwrite(content, start + 2 + 12 * entries, struct.pack(f"{order}I", chooser.choice(places)))


def _change_bmp(chooser: random.Random, content: bytes) -> bytes:
    """Changes a field of the headers, or what comes among the pixels: run lengths and steps."""
    if chooser.random() < 0.7:
        place, wide = chooser.choice(((10, 4), (14, 4), (18, 4), (22, 4), (26, 2), (28, 2), (30, 4), (34, 4), (46, 4)))
        return _overwrite(content, place, _pack_extreme(chooser, wide, "<"))
    (start,) = struct.unpack_from("<I", content, 10)
    place = chooser.randrange(start, len(content))
    return content[:place] + b"\0\x02" + chooser.choice((b"\xff\xff", b"\0\1", b"\1\0")) + content[place:]


def _change_gif(chooser: random.Random, content: bytes) -> bytes:
    """Changes the sizes of the screen or the picture, the flags, or the size of a code."""
    picture = content.index(b",", 13)
    places = (6, 8, picture + 1, picture + 3, picture + 5, picture + 7)
    if chooser.random() < 0.6:
        return _overwrite(content, chooser.choice(places), _pack_extreme(chooser, 2, "<"))
    return _overwrite(content, chooser.choice((10, 11, picture + 9, picture + 10)), chooser.randbytes(1))


def _split_riff(content: bytes) -> Parts:
    """Splits a WebP into its chunks, from the kind on."""
    parts, place = [], 12
    while place + 8 <= len(content):
        (length,) = struct.unpack_from("<I", content, place + 4)
        parts.append(content[place : place + 4] + content[place + 8 : place + 8 + length])
        place += 8 + length + length % 2
    return parts


def _join_riff(parts: Sequence[bytes]) -> bytes:
    chunks = b"".join(
        part[:4] + struct.pack("<I", len(part) - 4) + part[4:] + b"\0" * (len(part) % 2) for part in parts
    )
    return b"RIFF" + struct.pack("<I", len(chunks) + 4) + b"WEBP" + chunks


def _split_jpeg2000(content: bytes) -> Parts:
    """Splits JPEG 2000 before each marker of its codestream's headers."""
    stream = content.index(b"\xff\x4f\xff\x51")
    starts = [i for i in range(stream, len(content) - 1) if content[i] == 0xFF and 0x4F <= content[i + 1] <= 0x93]
    return [content[:stream], *(content[a:b] for a, b in zip(starts, [*starts[1:], len(content)], strict=True))]


def _change_jpeg2000(chooser: random.Random, content: bytes) -> bytes:
    """Changes a field of the size (SIZ), of the coding style (COD) or of a tile (SOT): ISO 15444-1, annex A."""
    parts = _split_jpeg2000(content)
    headers = [i for i, part in enumerate(parts) if part[:2] in (b"\xff\x51", b"\xff\x52", b"\xff\x90", b"\xff\x5c")]
    place = chooser.choice(headers)
    part = parts[place]
    if part[:2] == b"\xff\x51" and chooser.random() < 0.7:
        parts[place] = _overwrite(part, 6 + 4 * chooser.randrange(8), _pack_extreme(chooser, 4, ">"))
    else:
        parts[place] = _overwrite(part, chooser.randrange(2, len(part)), _pack_extreme(chooser, 1))
    return b"".join(parts)


_Format: TypeAlias = tuple[
    Callable[[bytes], Parts] | None,
    Callable[[Sequence[bytes]], bytes],
    Callable[[random.Random, bytes], bytes] | None,
]
_FORMATS: dict[str, _Format] = {
    "png": (split_png, join_png, _change_png),
    "jpeg": (_split_jpeg, b"".join, _change_jpeg),
    "tiff": (None, b"".join, _change_tiff),
    "bmp": (None, b"".join, _change_bmp),
    "gif": (None, b"".join, _change_gif),
    "webp": (_split_riff, _join_riff, None),
    "pnm": (None, b"".join, _change_digits),
    "jpeg2000": (_split_jpeg2000, b"".join, _change_jpeg2000),
}
"""How a file is split into parts, if it is; how they are joined; and how one of its fields is changed."""
