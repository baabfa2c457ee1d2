"""The text of labels: one line of Unicode, with its white space collapsed."""

from __future__ import annotations

import unicodedata


def normalise_text(text: str) -> str:
    """Returns a text in the form in which labels are stored, trained on and compared.

    That is NFC (never NFKC: `ﬁ`, `²` and the long s stay what they are), with one space for
    each run of white space and none at either end. Right-to-left text stays in logical order.
    Marks that NFC leaves decomposed stay symbols of their own.
    """
    return " ".join(unicodedata.normalize("NFC", text).split())
