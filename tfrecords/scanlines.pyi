def make_grey_line(
    scanlines: bytes,
    picture: tuple[int, int, int],
    palette: bytes,
    line: tuple[int, int],
    vertical: bool,
) -> bytes | None:
    """Makes a grey line of the scanlines of a PNG.

    Args:
        scanlines: filtered rows of 8 bits a sample, each after the number of its filter.
        picture: width and height in pixels, and samples of a pixel: 1 grey or indexed, 2 grey and alpha, 3 RGB, 4 RGBA.
        palette: red, green and blue of each index, or empty.
        line: width and height in pixels.
        vertical: whether the picture is turned to the left first.

    Returns:
        The line's pixels, row after row; or None for an unknown filter, an index beyond the palette, transparency, or
        colours whose luma has less than ample contrast (`tfrecords.grey`).

    Raises:
        MemoryError: if there is too little of it.
        ValueError: for sizes that do not fit each other.
    """
