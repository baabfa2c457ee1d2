"""The splits that names tell: those of folders, of tables, and the values in a column."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence

SPLIT_COLUMNS = ("split", "subset", "partition", "set", "data_split", "dataset_split", "usage", "phase", "fold")
"""The usual names of a column that says in which split an image is."""
_WORDS = {
    "train": ("train", "training", "trn"),
    "validation": ("val", "valid", "validation", "dev", "development"),
    "test": ("test", "testing", "tst", "eval", "evaluation"),
}
_SPLIT_OF_WORD = {
    f"{word}{ending}": split for split, words in _WORDS.items() for word in words for ending in ("", "set", "data")
}
_LEVELS = 2  # folders below the one that was named


def name_split(name: str) -> str | None:
    """Names the split that a name tells, as `train/`, `Val`, `test_set` and `rec_gt_train` do; None if none or several.

    Words end where letters end: `trained` is no word for a split.
    """
    words = re.findall(r"[^\W\d_]+", name.lower())
    splits = {_SPLIT_OF_WORD[word] for word in words if word in _SPLIT_OF_WORD}
    return splits.pop() if len(splits) == 1 else None


def has_own_splits(splits: Iterable[str | None]) -> bool:
    """Tells whether some splits divide a collection: there are images to train on, and others."""
    found = set(splits)
    return "train" in found and bool(found & {"validation", "test"})


def find_folder_splits(folders: Sequence[str], above: int) -> set[str]:
    """Finds the splits that an image's folders tell; several are a contradiction.

    Args:
        folders: names on the way to the image, from the folder that was named.
        above: how many of them belong to the folder that was named: these count too, where several were named.
    """
    return {split for name in folders[: above + _LEVELS] if (split := name_split(name)) is not None}


def choose_split_tables(tables: Sequence[str]) -> list[str]:
    """Chooses the tables that are named like splits, as `train.csv` and `test.csv` are; none if these are no whole."""
    named = {table: split for table in tables if (split := name_table_split(table)) is not None}
    return list(named) if has_own_splits(named.values()) else []


def find_table_splits(tables: Sequence[str]) -> list[str | None]:
    """Finds the split of each table, as `train.csv` and `test.csv` tell it; all None unless each table has one."""
    whole = len(choose_split_tables(tables)) == len(tables)
    return [name_table_split(table) if whole else None for table in tables]


def name_table_split(table: str) -> str | None:
    """Names the split that the name of a table tells, without its suffix; None if none or several."""
    return name_split(os.path.splitext(table.rpartition("/")[2])[0])
