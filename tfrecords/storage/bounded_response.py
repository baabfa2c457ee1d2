"""Answers of an object store of which no more is received than is asked for."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator

import aiohttp

_at_most: contextvars.ContextVar[int | None] = contextvars.ContextVar("_at_most", default=None)


class BoundedResponse(aiohttp.ClientResponse):
    """An answer whose body is received up to the bound of the block that asks, `bound_body`, and no further.

    A range in the request would do the same, but a store sends the checksum of an object with the whole object alone.
    """

    async def read(self) -> bytes:
        """Receives the body, or its first bytes."""
        missing = _at_most.get()
        if missing is None or self.status >= 300:
            return await super().read()
        parts = []
        while missing > 0 and (part := await self.content.read(missing)):
            parts.append(part)
            missing -= len(part)
        return b"".join(parts)


@contextlib.contextmanager
def bound_body(at_most: int | None) -> Iterator[None]:
    """Bounds the bodies of answers to what this thread asks for in the block, in bytes; None for no bound."""
    token = _at_most.set(at_most)
    try:
        yield
    finally:
        _at_most.reset(token)
