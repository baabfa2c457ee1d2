"""Encoding of one listed image as a serialised example."""

from __future__ import annotations

import dataclasses

from components.ctc.fit import explain_label_misfit
from components.lines import Content, read_referenced_line
from components.listing import ImageReference
from components.rejects import Reject
from tfrecords import Charset, ImageLimits, LineExample, encode_example, encode_png


@dataclasses.dataclass(frozen=True)
class EncodingRules:
    """Rules that decide the bytes of an example.

    Attributes:
        charset: encodes the labels.
        height: pixels of every line.
        time_stride: pixels of width per time step of the networks to be trained.
        limits: which images are refused.
        vertical: whether text runs from top to bottom.
    """

    charset: Charset
    height: int
    time_stride: int
    limits: ImageLimits
    vertical: bool = False


def encode_reference(reference: ImageReference, content: Content, rules: EncodingRules) -> bytes | Reject:
    """Reads, checks and encodes a labelled image as a serialised `tf.train.Example`; returns a reject if it cannot.

    Args:
        content: what was read of the image's file before.
    """
    uri = reference.uri
    if reference.problem is not None or reference.text is None:
        return Reject(uri, reference.problem or "no_label", reference.detail or "no label was asked for")
    if unknown := rules.charset.missing(reference.text):
        return Reject(
            uri, "symbol_not_in_charset", f"label {reference.text!r} has {', '.join(map(repr, unknown))}: see --charset"
        )
    line = read_referenced_line(reference, content, rules.height, rules.limits, rules.vertical)
    if isinstance(line, Reject):
        return line
    width = line.pixels.shape[1]
    label = tuple(rules.charset.encode(reference.text))
    if problem := explain_label_misfit(uri, label, width, rules.time_stride):
        if line.source_height >= 2 * line.source_width and not rules.vertical:
            problem += "; if its text runs from top to bottom, use --vertical"
        return Reject(uri, "label_too_long", problem)
    return encode_example(LineExample(encode_png(line.pixels), width, label, reference.text, uri))
