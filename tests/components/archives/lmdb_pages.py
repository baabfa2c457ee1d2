"""LMDB databases for the tests, written page by page as `mdb_load` would."""

import pathlib
import struct
from collections.abc import Mapping

from tests.components.archives.tables import Row

PAGE = 4096
_BRANCH, _LEAF, _OVERFLOW, _META = 1, 2, 4, 8
_LONGEST_INSIDE = 2_000  # bytes of a value that stands in its leaf


def make_lines(rows: list[Row], begin: int = 1) -> dict[bytes, bytes]:
    """Makes the keys and values of lines."""
    values = {b"num-samples": b"%d" % len(rows)}
    for number, (image, text) in enumerate(rows, begin):
        values |= {} if image is None else {b"image-%09d" % number: image}
        values |= {} if text is None else {b"label-%09d" % number: text.encode()}
    return values


def put_lmdb(folder: pathlib.Path, rows: list[Row]) -> str:
    """Writes a database of lines into a folder; returns the path of its `data.mdb`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "data.mdb").write_bytes(make_lmdb(make_lines(rows)))
    (folder / "lock.mdb").write_bytes(bytes(8192))
    return f"{folder}/data.mdb"


def make_lmdb(values: Mapping[bytes, bytes]) -> bytes:
    """Writes keys and values as a database."""
    pages: list[bytes] = [b"", b""]
    nodes = []
    for key in sorted(values):
        value, flags = values[key], 0
        node_data = value
        if len(value) > _LONGEST_INSIDE:
            node_data, flags = struct.pack("<Q", len(pages)), 1
            count = (16 + len(value) + PAGE - 1) // PAGE
            content = struct.pack("<QHHI", len(pages), 0, _OVERFLOW, count) + value
            content = content.ljust(count * PAGE, b"\0")
            pages += [content[at : at + PAGE] for at in range(0, len(content), PAGE)]
        size = len(value)
        nodes.append((key, struct.pack("<HHHH", size & 0xFFFF, size >> 16, flags, len(key)) + key + node_data))
    level, kind, depth = _add_pages(pages, nodes, _LEAF), _LEAF, 1
    while len(level) > 1:
        kind, depth = _BRANCH, depth + 1
        branches = []
        for index, (key, number) in enumerate(level):
            name = b"" if index == 0 else key
            head = struct.pack("<HHHH", number & 0xFFFF, number >> 16 & 0xFFFF, number >> 32, len(name))
            branches.append((key, head + name))
        level = _add_pages(pages, branches, kind)
    root = level[0][1] if level else (1 << 64) - 1
    for number in range(2):
        free = struct.pack("<IHHQQQQQ", PAGE, 8, 0, 0, 0, 0, 0, (1 << 64) - 1)
        main = struct.pack("<IHHQQQQQ", 0, 0, depth, 0, 0, 0, len(values), root if number else (1 << 64) - 1)
        meta = struct.pack("<QHHI", number, 0, _META, 0) + struct.pack("<IIQQ", 0xBEEFC0DE, 1, 0, 1 << 30)
        pages[number] = (meta + free + main + struct.pack("<QQ", len(pages) - 1, number)).ljust(PAGE, b"\0")
    return b"".join(pages)


def _add_pages(pages: list[bytes], nodes: list[tuple[bytes, bytes]], kind: int) -> list[tuple[bytes, int]]:
    """Adds pages of nodes; returns the first key and the number of each."""
    added = []
    while nodes:
        first, places, body, end = nodes[0][0], b"", b"", PAGE
        while nodes and 16 + len(places) + 2 + len(body) + len(nodes[0][1]) + 1 <= PAGE:
            node = nodes.pop(0)[1]
            node += b"\0" * (len(node) % 2)
            end -= len(node)
            body, places = node + body, places + struct.pack("<H", end)
        head = struct.pack("<QHHHH", len(pages), 0, kind, 16 + len(places), end)
        added.append((first, len(pages)))
        pages.append((head + places).ljust(end, b"\0") + body)
    return added
