"""Image files to text inside a TensorFlow graph: the signature `read` of a SavedModel.

Why Pillow's decoding and resizing are written again here: TF Serving runs a graph, and no Python. Its users send the
bytes of image files and get text, as `docs/models.md` promises. A signature for prepared batches alone would have each
of them write this preprocessing in another language, and get other confidences than the `infer` step.

The graph follows `tfrecords.read_line` and `pad_lines`, the pixels to the bit, and then
`components.ctc.decoding.decode_greedily`. Tests hold it to them. It refuses what TensorFlow decodes in another way than
Pillow:

- It reads PNG, JPEG, WebP, and BMP of 24 bits.
- It refuses everything else, also GIF (TensorFlow loses its transparency) and other BMP (palettes and alpha get lost).
- It refuses an image that its metadata would turn, since TensorFlow ignores them, and an animation.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from tfrecords import ImageLimits
from tfrecords.grey import (
    AMPLE_CONTRAST,
    FEWER_BITS,
    LEAST_CONTRAST,
    LEAST_CONTRAST_OF_A_CHANNEL,
    OUTLIERS,
    WHITE_OF_14_BITS,
)

_LIMITS = ImageLimits()
_BLACK, _WHITE = 0, 255
_HEAD_BYTES = 32
_PNG_BITS, _PNG_KIND, _PNG_PALETTE = 24, 25, 3  # places in a PNG's head, and a value at the second
# Bytes that long cannot occur by chance: an orientation among the entries of EXIF, in either order of bytes, or in XMP;
# what a PNG may hold compressed; and the chunks of PNG and WebP that make an animation. RE2 takes any byte for \C.
_TURNED = (
    r"\C*(\x12\x01\x03\x00\x01\x00\x00\x00[\x02-\x08]\x00|\x01\x12\x00\x03\x00\x00\x00\x01\x00[\x02-\x08]"
    r"|tiff:Orientation(=\"|>)[2-8]|Raw profile type exif\x00|XML:com\.adobe\.xmp\x00\x01)\C*"
)
_ANIMATED = r"\C*(\x00\x00\x00\x08acTL|ANIM\x06\x00\x00\x00)\C*"
_WEIGHT_BITS = 22


def read_lines(files: tf.Tensor, height: int, time_stride: int, vertical: bool = False) -> tuple[tf.Tensor, tf.Tensor]:
    """Turns image files into a batch of grey lines, padded with white.

    Args:
        files: string [batch], the files' bytes; at least one.
        height: pixels; a line's width follows from its aspect.
        time_stride: the batch's width is a multiple of this many pixels.
        vertical: whether text runs from top to bottom.

    Returns:
        Images uint8 [batch, height, width, 1] and the lines' own widths, int32 [batch].

    Raises:
        tf.errors.InvalidArgumentError: for the whole batch, if one of its files cannot be read.
    """
    lines = tf.map_fn(
        lambda data: _read_line(data, height, vertical),
        files,
        fn_output_signature=tf.RaggedTensorSpec([None, height], tf.uint8, ragged_rank=0),
    )
    widths = tf.cast(lines.row_lengths(), tf.int32)
    images = tf.transpose(lines.to_tensor(tf.constant(_WHITE, tf.uint8)), [0, 2, 1])
    missing = -tf.shape(images)[2] % time_stride
    images = tf.pad(images, [[0, 0], [0, 0], [0, missing]], constant_values=_WHITE)
    return images[..., None], widths


def decode_text(logits: tf.Tensor, time_steps: tf.Tensor, symbols: Sequence[str]) -> tuple[tf.Tensor, tf.Tensor]:
    """Takes the best class at every time step, merges repeats and drops blanks (Graves et al. 2006, section 3.2).

    Args:
        logits: float32 [batch, time, classes], unnormalised; class `classes - 1` is the blank.
        time_steps: int32 [batch]; the logits behind them do not matter.
        symbols: by id.

    Returns:
        Texts, string [batch], UTF-8; and the posterior of each over all its alignments, float32 [batch].

    Raises:
        tf.errors.InvalidArgumentError: if a logit within an image's time steps is not finite.
    """
    blank = len(symbols)
    within = tf.sequence_mask(time_steps, tf.shape(logits)[1])
    logits = tf.debugging.check_numerics(tf.where(within[..., None], logits, 0.0), "the network's logits")
    best = tf.where(within, tf.argmax(logits, axis=2, output_type=tf.int32), blank)
    previous = tf.pad(best[:, :-1], [[0, 0], [1, 0]], constant_values=blank)
    written = (best != previous) & (best != blank)
    texts = tf.strings.reduce_join(tf.gather([*symbols, ""], tf.where(written, best, blank)), axis=1)

    # CTCLoss refuses a label without symbols. It gets a substitute, whose loss is not used. (tf.nn.ctc_loss would
    # write a variant into the graph that only a GPU can run, under a new name each time.)
    log_probabilities = tf.nn.log_softmax(tf.cast(logits, tf.float64))
    empty = ~tf.reduce_any(written, axis=1)
    labelled = written | (empty[:, None] & (tf.range(tf.shape(best)[1]) == 0))
    indices = tf.where(labelled)
    losses = tf.raw_ops.CTCLoss(
        inputs=tf.transpose(log_probabilities, [1, 0, 2]),
        labels_indices=indices,
        labels_values=tf.gather_nd(tf.where(empty[:, None], 0, best), indices),
        sequence_length=time_steps,
    ).loss
    only_blanks = tf.reduce_sum(tf.where(within, log_probabilities[..., blank], 0.0), axis=1)
    return texts, tf.cast(tf.exp(tf.minimum(tf.where(empty, only_blanks, -losses), 0.0)), tf.float32)


def _read_line(data: tf.Tensor, height: int, vertical: bool) -> tf.Tensor:
    """Turns one image file, string [], into the columns of its grey line, uint8 [width, height]."""
    grey = _to_grey(_decode(data))
    if vertical:
        grey = tf.reverse(tf.transpose(grey), [0])
    rows, columns = tf.shape(grey)[0], tf.shape(grey)[1]
    width = tf.round(tf.cast(columns, tf.float64) * height / tf.cast(rows, tf.float64))
    width = tf.cast(tf.clip_by_value(width, 1, _LIMITS.max_line_width + 1), tf.int32)
    usable = (tf.minimum(rows, columns) >= _LIMITS.min_side) & (width <= _LIMITS.max_line_width)
    usable &= tf.cast(rows, tf.int64) * tf.cast(columns, tf.int64) <= _LIMITS.max_pixels
    message = f"an image is too small or too large for a line {height} pixels high; its width and height are"
    with tf.control_dependencies([tf.debugging.Assert(usable, [message, columns, rows])]):
        line = _resample(tf.transpose(_resample(grey, width)), height)
    return tf.cast(line, tf.uint8)


def _decode(data: tf.Tensor) -> tf.Tensor:
    """Decodes a file to int32 [height, width, channels]: grey, grey and alpha, RGB or RGBA, 0 to 255."""
    head = tf.strings.substr(data + b"\0" * _HEAD_BYTES, 0, _HEAD_BYTES)

    def has(start: int, value: bytes) -> tf.Tensor:
        return tf.strings.substr(head, start, len(value)) == value

    jpeg = has(0, b"\xff\xd8\xff")
    png = has(0, b"\x89PNG\r\n\x1a\n")
    webp = has(0, b"RIFF") & has(8, b"WEBP")
    bitmap = has(0, b"BM") & has(28, b"\x18")
    turned = tf.strings.regex_full_match(data, _TURNED)
    animated = (png | webp) & tf.strings.regex_full_match(data, _ANIMATED)
    checks = [
        (jpeg | png | webp | bitmap, "the bytes are no PNG, JPEG, WebP or BMP of 24 bits"),
        (bitmap | ~turned, "the metadata may turn the image: turn its pixels upright, and leave the metadata out"),
        (~animated, "the image is an animation: send one picture"),
    ]
    assertions = [tf.debugging.Assert(good, [message, tf.strings.length(data)]) for good, message in checks]
    with tf.control_dependencies(assertions):
        pixels = tf.case(
            [
                (jpeg, lambda: tf.cast(tf.io.decode_jpeg(data, 3, dct_method="INTEGER_ACCURATE"), tf.int32)),
                (png, lambda: _decode_png(data, tf.cast(tf.io.decode_raw(head, tf.uint8), tf.int32))),
            ],
            default=lambda: tf.cast(tf.io.decode_image(data, expand_animations=False), tf.int32),
        )
    return tf.ensure_shape(pixels, [None, None, None])


def _decode_png(data: tf.Tensor, head: tf.Tensor) -> tf.Tensor:
    """Decodes a PNG to int32 [height, width, channels], with a transparent colour as alpha.

    TensorFlow sees that colour only if it is asked for alpha. Then it fills the alpha of others with the greatest value
    of their bits, which are fewer than 8 in some.

    Args:
        head: int32 [bytes], the file's first bytes.
    """
    bits = head[_PNG_BITS]

    def decode_palette() -> tf.Tensor:
        return tf.cast(tf.io.decode_png(data), tf.int32)

    def decode_8_bits() -> tf.Tensor:
        pixels = tf.cast(tf.io.decode_png(data, 4), tf.int32)
        alpha = pixels[..., 3:]
        return tf.concat([pixels[..., :3], tf.where((bits < 8) & (alpha == 2**bits - 1), 255, alpha)], axis=-1)

    def decode_16_bits() -> tf.Tensor:
        pixels = tf.cast(tf.io.decode_png(data, 4, tf.uint16), tf.int32)
        colours, alpha = pixels[..., :3], pixels[..., 3:]
        shift = _choose_bits(tf.boolean_mask(colours, alpha[..., 0] > 0)) - 8
        return tf.concat([tf.minimum(tf.bitwise.right_shift(colours, shift), 255), alpha // 256], axis=-1)

    return tf.case(
        [(head[_PNG_KIND] == _PNG_PALETTE, decode_palette), (bits == 16, decode_16_bits)], default=decode_8_bits
    )


def _choose_bits(values: tf.Tensor) -> tf.Tensor:
    """Chooses the bits that are in use, int32 [], as `tfrecords.grey.choose_bits` does, from int32 [pixels, 3]."""
    darkest, brightest = tf.reduce_min(values), tf.reduce_max(values)
    lower, upper = values % 256, values // 256
    eight = tf.reduce_all(lower == 0) | tf.reduce_all(lower == upper)
    is_white = (brightest >= WHITE_OF_14_BITS.start) & (brightest < WHITE_OF_14_BITS.stop)
    chosen = tf.where(is_white, 14, 16)
    for bits in reversed(FEWER_BITS):
        chosen = tf.where(brightest < 2**bits, bits, chosen)
    return tf.where(eight | (darkest >= brightest), 16, chosen)


def _to_grey(pixels: tf.Tensor) -> tf.Tensor:
    """Returns int32 [height, width]. Lays transparency on white, or on black if white would show hardly anything."""
    channels = tf.shape(pixels)[2]
    has_alpha = channels % 2 == 0
    alpha = tf.where(has_alpha, pixels[:, :, -1:], 255)
    colour = pixels[:, :, : tf.where(has_alpha, channels - 1, channels)] + tf.zeros([3], tf.int32)  # grey three times
    on_white = _laid_on(_WHITE, colour, alpha)
    luma = _luma(on_white)

    def choose_ground() -> tf.Tensor:
        on_black = _laid_on(_BLACK, colour, alpha)
        return tf.where(_contrast(_luma(on_black)) > _contrast(luma), on_black, on_white)

    laid = tf.cond(_contrast(luma) < LEAST_CONTRAST, choose_ground, lambda: on_white)
    return tf.cond(_contrast(_luma(laid)) < AMPLE_CONTRAST, lambda: _weigh_colours(laid), lambda: _luma(laid))


def _weigh_colours(colour: tf.Tensor) -> tf.Tensor:
    """Returns the luma, int32 [height, width], or one channel where luma shows hardly anything and that one does."""
    luma = _luma(colour)
    luma_sides = _find_sides(luma)
    sides = tf.stack([_find_sides(colour[:, :, number]) for number in range(3)])
    contrasts = sides[:, 1] - sides[:, 0]
    clearest = tf.argmax(contrasts)
    channel = colour[:, :, clearest]
    total = tf.reduce_sum(tf.cast(channel, tf.int64))
    is_dark = 2 * total < tf.cast(tf.reduce_sum(sides[clearest]), tf.int64) * tf.size(channel, tf.int64)
    is_taken = (luma_sides[1] - luma_sides[0] < LEAST_CONTRAST) & (contrasts[clearest] >= LEAST_CONTRAST_OF_A_CHANNEL)
    return tf.where(is_taken, tf.where(is_dark, 255 - channel, channel), luma)


def _find_sides(grey: tf.Tensor) -> tf.Tensor:
    """Finds the darkest and the lightest of an image's values but for outliers, int32 [2]."""
    counts = tf.cumsum(tf.math.bincount(tf.reshape(grey, [-1]), minlength=256))
    cut = counts[-1] // OUTLIERS
    below = tf.stack([counts <= cut, counts < counts[-1] - cut])
    return tf.reduce_sum(tf.cast(below, tf.int32), axis=1)


def _laid_on(ground: int, colour: tf.Tensor, alpha: tf.Tensor) -> tf.Tensor:
    """Composites colour on an opaque ground in Pillow's integers, which divide by 255 with shifts."""
    value = (colour * alpha + ground * (255 - alpha) + 128) * 128
    return (value // 256 + value) // 256 // 128


def _luma(colour: tf.Tensor) -> tf.Tensor:
    """Computes the ITU-R 601-2 luma in Pillow's integers."""
    return (colour[:, :, 0] * 19595 + colour[:, :, 1] * 38470 + colour[:, :, 2] * 7471 + 32768) // 65536


def _contrast(grey: tf.Tensor) -> tf.Tensor:
    return tf.reduce_max(grey) - tf.reduce_min(grey)


def _resample(grey: tf.Tensor, size: tf.Tensor | int) -> tf.Tensor:
    """Resizes rows from int32 [rows, columns] to [rows, size] with Pillow's bilinear filter, to the bit.

    The filter is a triangle, as wide as two source pixels, or as two new pixels where the image shrinks. Its weights
    are integers that sum to 2**22. The result is rounded to a whole grey level.
    """
    columns = tf.shape(grey)[1]
    scale = tf.cast(columns, tf.float64) / tf.cast(size, tf.float64)
    reach = tf.maximum(scale, 1.0)
    centres = (tf.cast(tf.range(size), tf.float64) + 0.5) * scale
    first = tf.maximum(tf.cast(centres - reach + 0.5, tf.int32), 0)
    end = tf.minimum(tf.cast(centres + reach + 0.5, tf.int32), columns)
    sources = first[:, None] + tf.range(tf.reduce_max(end - first))
    distances = tf.abs(tf.cast(sources, tf.float64) + 0.5 - centres[:, None]) / reach
    weights = tf.where(sources < end[:, None], tf.maximum(1 - distances, 0), 0)
    weights /= tf.reduce_sum(weights, axis=1, keepdims=True)
    weights = tf.cast(weights * 2**_WEIGHT_BITS + 0.5, tf.int32)
    summed = tf.reduce_sum(tf.gather(grey, tf.minimum(sources, columns - 1), axis=1) * weights, axis=2)
    return tf.minimum((summed + 2 ** (_WEIGHT_BITS - 1)) // 2**_WEIGHT_BITS, 255)
