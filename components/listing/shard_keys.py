"""Keys of listed images: which of them are read together, and in which order."""

from __future__ import annotations

from components.archives.files import BLOCK_BYTES
from components.archives.paths import find_member_path
from components.listing.line_places import get_page
from components.listing.references import ImageReference


def get_shard_key(reference: ImageReference) -> str:
    """Returns the key whose hash decides the shard of an image.

    It is shared by the lines of a page, which is decoded once, by members that lie in one block of an archive, which
    one request reads, and by all members of a compressed archive, which is unpacked once.
    """
    if reference.offset is not None and (member := find_member_path(reference.key)) is not None:
        block = "" if reference.length is None else f"!{reference.offset // BLOCK_BYTES}"
        return f"{member.archive}{block}"
    return get_page(reference.key)


def get_order(reference: ImageReference) -> tuple[str, int, str, str]:
    """Returns what images are sorted by: the key, but members of an archive by their places in it."""
    if reference.offset is not None and (member := find_member_path(reference.key)) is not None:
        return member.archive, reference.offset, reference.key, reference.uri
    return reference.key, -1, reference.key, reference.uri
