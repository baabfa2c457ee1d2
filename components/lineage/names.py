"""The name that a person gives an image: its URI, or a path that ends it."""

from __future__ import annotations

import dataclasses
import functools
import operator
import os
from collections.abc import Collection

import numpy as np
import pyarrow
import pyarrow.compute

from components.listing import location_to_uri, uri_to_path
from tfrecords import DataError, storage

CANDIDATES = 20
"""Images, at most, that are told apart where a name is the end of several URIs."""
_LOCAL = "file://"


@dataclasses.dataclass(frozen=True)
class ImageName:
    """The name of an image, in all the ways in which a URI may hold it.

    Attributes:
        given: as a person gave it.
        exact: URIs that it may be as a whole, the likeliest first.
        endings: what URIs may end with; each begins with a slash.
    """

    given: str
    exact: tuple[str, ...]
    endings: tuple[str, ...]

    @classmethod
    def parse(cls, given: str) -> ImageName:
        """Takes a name for a URI, a `file://` URL, a `gs://` URL, or a local path or the end of one."""
        named = given
        if given.startswith(_LOCAL):
            named = uri_to_path(given.removeprefix(_LOCAL))
        elif storage.is_remote(given):
            return cls(given, (given,), ())
        path = os.path.normpath(named)
        exact = _list_forms(given, path, os.path.abspath(path))
        endings = [] if path.startswith("..") else _list_forms("/" + path.lstrip("/"))
        return cls(given, tuple(exact), tuple(endings))

    def find(self, uris: pyarrow.ChunkedArray) -> np.ndarray:
        """Finds the places of URIs that the name may stand for, int64 [found], in their order.

        Of more than `CANDIDATES` images that it only ends, those past the first are left out, but for one.
        """
        exact = pyarrow.array(self.exact, pyarrow.string())
        masks = [pyarrow.compute.is_in(uris, value_set=exact)]
        masks += [pyarrow.compute.ends_with(uris, ending) for ending in self.endings]
        places = np.flatnonzero(functools.reduce(operator.or_, (mask.to_numpy(zero_copy_only=False) for mask in masks)))
        found = uris.take(pyarrow.array(places))
        different = found.unique()
        if len(different) <= CANDIDATES:
            return places
        kept = pyarrow.concat_arrays([different.slice(0, CANDIDATES + 1), exact])
        return places[pyarrow.compute.is_in(found, value_set=kept).to_numpy(zero_copy_only=False)]

    def choose(self, uris: Collection[str]) -> str | None:
        """Chooses the URI that the name stands for: the one that it is as a whole, else the only one that it ends.

        Args:
            uris: that it may stand for; at least two if it ends several.

        Returns:
            None without any.

        Raises:
            DataError: if it ends several.
        """
        if whole := [uri for uri in self.exact if uri in uris]:
            return whole[0]
        if len(uris) > 1:
            shown = sorted(uris)[:CANDIDATES]
            more = ", …" * (len(uris) > CANDIDATES)
            raise DataError(
                f"--uri={self.given} is the end of several URIs: give more of the path ({', '.join(shown)}{more})"
            )
        return next(iter(uris), None)


def _list_forms(*paths: str) -> list[str]:
    """Lists paths as they are and as URIs, without doubles; a path that is not UTF-8 is in no table as it is."""
    forms = [form for path in paths for form in (path, location_to_uri(path))]
    return [form for form in dict.fromkeys(forms) if form.isascii() or _is_text(form)]


def _is_text(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True
