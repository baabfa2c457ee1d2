"""Small images of every format that is read, and of every variety of it that is decoded in its own way.

Each is a whole file. Most show the same line; some are refused as they are, such as animations.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterable
from typing import Any

import numpy as np
from PIL import Image, ImageCms, ImageDraw, PngImagePlugin, TiffImagePlugin

SIZE = WIDTH, HEIGHT = 48, 16
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_GREY, _RGB, _GREY_ALPHA, _RGBA = 0, 2, 4, 6
_ORIENTATION, _TURNED = 0x0112, 6
_SHORT, _LONG = 3, 4


def make_seeds() -> dict[str, bytes]:
    """Makes all of them, by name: the format, a hyphen, and the variety."""
    made = [_make_pngs(), _make_jpegs(), _make_tiffs(), _make_bmps(), _make_gifs(), _make_others()]
    seeds = {name: content for group in made for name, content in group.items()}
    return dict(sorted(seeds.items()))


def make_png_chunk(kind: bytes, content: bytes) -> bytes:
    """Makes a chunk of a PNG, with its length and checksum."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _draw(mode: str = "RGB") -> Image.Image:
    """A black block and a coloured one on a light ground that grows lighter to the right."""
    ramp = np.linspace(180, 250, WIDTH).astype(np.uint8)
    image = Image.fromarray(np.repeat(np.tile(ramp, (HEIGHT, 1))[..., None], 3, axis=2))
    ImageDraw.Draw(image).rectangle((5, 3, 20, 9), fill=(10, 10, 20))
    ImageDraw.Draw(image).rectangle((25, 6, 40, 12), fill=(120, 20, 20))
    if mode == "LAB":
        to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
        lab = ImageCms.applyTransform(image, to_lab)
        del lab.info["icc_profile"]  # it has the time at which it was made
        return lab
    if mode in ("LA", "RGBA"):
        image.putalpha(image.convert("L").point(lambda grey: 255 if grey < 128 else grey // 2))
    return image.convert("L" if mode == "I;16" else mode) if mode != "I;16" else _make_sixteen_bits(image)


def _make_sixteen_bits(image: Image.Image) -> Image.Image:
    return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 256 + 17)


def _save(image: Image.Image, file_format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def _make_exif() -> Image.Exif:
    exif = Image.Exif()
    exif[_ORIENTATION] = _TURNED
    exif[0x010E] = "a line"
    return exif


def _make_frames() -> list[Image.Image]:
    return [_draw("L").rotate(angle) for angle in (90, 180)]


def _make_pngs() -> dict[str, bytes]:
    seeds = {f"png-{mode}": _save(_draw(mode), "PNG") for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")}
    indexed = _draw().quantize(16)
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "a line " * 9, zip=True)
    text.add_itxt("XML:com.adobe.xmp", '<x tiff:Orientation="6"/>')
    seeds |= {
        **{f"png-indexed-{bits}": _save(_draw().quantize(1 << bits), "PNG", bits=bits) for bits in (1, 2, 4)},
        "png-indexed-clear": _save(indexed, "PNG", transparency=b"\0\x80" * 8),
        "png-grey-clear": _save(_draw("L"), "PNG", transparency=180),
        "png-rgb-clear": _save(_draw(), "PNG", transparency=(10, 10, 20)),
        "png-16-clear": _save(_draw("I;16"), "PNG", transparency=10 * 256 + 17),
        "png-exif": _save(_draw("L"), "PNG", exif=_make_exif()),
        "png-text": _save(_draw("L"), "PNG", pnginfo=text, icc_profile=b"a profile " * 40, dpi=(300, 300)),
        "png-animated": _save(_draw("L"), "PNG", save_all=True, append_images=_make_frames()),
    }
    rows = np.asarray(_draw("L"))
    for bits in (2, 4):
        samples = rows >> (8 - bits)
        seeds[f"png-grey-{bits}"] = make_png(bits, _GREY, [_pack(samples, bits)])
    interlaced = [rows[y::dy, x::dx] for x, y, dx, dy in _ADAM7]
    seeds["png-interlaced"] = make_png(8, _GREY, [_filter(part) for part in interlaced], interlaced=True)
    colours = np.asarray(_draw())
    interlaced = [colours[y::dy, x::dx] for x, y, dx, dy in _ADAM7]
    seeds["png-rgb-interlaced"] = make_png(8, _RGB, [_filter(part) for part in interlaced], interlaced=True)
    for name, mode, kind in (("rgb", "RGB", _RGB), ("grey-alpha", "LA", _GREY_ALPHA), ("rgba", "RGBA", _RGBA)):
        values = np.asarray(_draw(mode)).astype(np.uint16)
        for bits in (16, 12):
            samples = (values << (bits - 8)) + 3
            seeds[f"png-{bits}-in-16-{name}"] = make_png(16, kind, [_filter(samples.astype(">u2").view(np.uint8))])
    return seeds


def _pack(samples: np.ndarray, bits: int) -> bytes:
    """Packs samples, each of less than 8 bits, into filtered rows."""
    split = np.unpackbits(samples[..., None].astype(np.uint8), axis=2)[..., 8 - bits :]
    return _filter(np.packbits(split.reshape(len(samples), -1), axis=1))


def _filter(rows: np.ndarray) -> bytes:
    """Puts the number of no filter before each row."""
    return b"".join(b"\0" + row.tobytes() for row in rows)


def make_png(
    bits: int,
    kind: int,
    passes: Iterable[bytes],
    *,
    interlaced: bool = False,
    size: tuple[int, int] = SIZE,
    palette: bytes = b"",
) -> bytes:
    """Makes a PNG of filtered rows, pass by pass."""
    header = struct.pack(">IIBBBBB", *size, bits, kind, 0, 0, interlaced)
    colours = [(b"PLTE", palette)] if palette else []
    chunks = (b"IHDR", header), *colours, (b"IDAT", zlib.compress(b"".join(passes))), (b"IEND", b"")
    return PNG_SIGNATURE + b"".join(make_png_chunk(name, content) for name, content in chunks)


def _make_jpegs() -> dict[str, bytes]:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><r tiff:Orientation="8"/></x:xmpmeta>'
    return {
        "jpeg-grey": _save(_draw("L"), "JPEG"),
        "jpeg-colour": _save(_draw(), "JPEG", subsampling=2),
        "jpeg-full-colour": _save(_draw(), "JPEG", subsampling=0, optimize=True),
        "jpeg-progressive": _save(_draw(), "JPEG", progressive=True),
        "jpeg-cmyk": _save(_draw("CMYK"), "JPEG"),
        "jpeg-restarts": _save(_draw("L"), "JPEG", restart_marker_blocks=2, comment="a line"),
        "jpeg-exif": _save(_draw("L"), "JPEG", exif=_make_exif()),
        "jpeg-xmp": _save(_draw("L"), "JPEG", xmp=xmp),
        "jpeg-two-views": _save(_draw(), "MPO", save_all=True, append_images=[_draw().rotate(180)]),
    }


def _make_tiffs() -> dict[str, bytes]:
    packed = ("packbits", "tiff_lzw", "tiff_adobe_deflate", "jpeg", "zstd", "lzma")
    seeds = {f"tiff-{name}": _save(_draw(), "TIFF", compression=name) for name in packed}
    for name in ("group3", "group4", "tiff_ccitt"):
        seeds[f"tiff-{name}"] = _save(_draw("1"), "TIFF", compression=name)
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "LAB", "I;16", "I", "F"):
        seeds[f"tiff-{mode}"] = _save(_draw(mode), "TIFF")
    turned, strips, thumbnail = (TiffImagePlugin.ImageFileDirectory_v2() for _ in range(3))
    turned[_ORIENTATION] = _TURNED
    strips[278] = 4  # rows
    thumbnail[254] = 1
    with io.BytesIO() as file:
        with TiffImagePlugin.AppendingTiffWriter(file) as writer:
            _draw("L").save(writer, "TIFF")
            writer.newFrame()
            _draw("L").resize((24, 8)).save(writer, "TIFF", tiffinfo=thumbnail)
        seeds["tiff-thumbnail"] = file.getvalue()
    seeds |= {
        "tiff-pages": _save(_draw("L"), "TIFF", save_all=True, append_images=_make_frames()),
        "tiff-large": _save(_draw("L"), "TIFF", big_tiff=True),
        "tiff-turned": _save(_draw("L"), "TIFF", tiffinfo=turned),
        "tiff-strips": _save(_draw("L"), "TIFF", tiffinfo=strips, compression="tiff_lzw"),
        "tiff-predictor": _save(_draw(), "TIFF", tiffinfo={317: 2}, compression="tiff_lzw"),
        "tiff-tiles": _make_tiff("<", 32),
        "tiff-big-endian": _make_tiff(">", 16),
        "tiff-12": _make_tiff("<", bits=12),
        "tiff-planes": _make_tiff("<", planes=3),
        "tiff-white-is-zero": _make_tiff("<", photometric=0),
    }
    return seeds


def _make_tiff(order: str, tile: int = 0, *, bits: int = 8, planes: int = 1, photometric: int = 1) -> bytes:
    """Makes a TIFF (revision 6.0) without compression: in square tiles of so many pixels, or else in one strip."""
    grey = np.asarray(_draw("L"))
    if bits == 12:
        samples = np.unpackbits(
            (grey.astype(np.uint16) << 4).astype(">u2").view(np.uint8).reshape(HEIGHT, WIDTH, 2), axis=2
        )[..., 4:]
        parts = [np.packbits(samples.reshape(HEIGHT, -1), axis=1).tobytes()]
    elif tile:
        room = np.full((-(-HEIGHT // tile) * tile, -(-WIDTH // tile) * tile), 255, np.uint8)
        room[:HEIGHT, :WIDTH] = grey
        places = [(y, x) for y in range(0, len(room), tile) for x in range(0, room.shape[1], tile)]
        parts = [room[y : y + tile, x : x + tile].tobytes() for y, x in places]
    else:
        parts = [grey.tobytes()] * planes
    start = 8 + sum(map(len, parts))
    offsets = [8 + sum(map(len, parts[:number])) for number in range(len(parts))]
    entries = {256: WIDTH, 257: HEIGHT, 258: [bits] * planes, 259: 1, 262: 2 if planes == 3 else photometric}
    entries |= {277: planes, 284: 2 if planes > 1 else 1}
    sizes = [len(part) for part in parts]
    entries |= {322: tile, 323: tile, 324: offsets, 325: sizes} if tile else {273: offsets, 278: HEIGHT, 279: sizes}
    directory, elsewhere = b"", b""
    after = start + 2 + 12 * len(entries) + 4
    for tag, given in sorted(entries.items()):
        values = given if isinstance(given, list) else [given]
        kind, letter = (_SHORT, "H") if tag < 273 or tag in (277, 284) else (_LONG, "I")
        content = struct.pack(f"{order}{len(values)}{letter}", *values)
        if len(content) > 4:
            content, elsewhere = struct.pack(f"{order}I", after + len(elsewhere)), elsewhere + content
        directory += struct.pack(f"{order}HHI", tag, kind, len(values)) + content.ljust(4, b"\0")
    head = {"<": b"II", ">": b"MM"}[order] + struct.pack(f"{order}HI", 42, start)
    return head + b"".join(parts) + struct.pack(f"{order}H", len(entries)) + directory + bytes(4) + elsewhere


def _make_bmps() -> dict[str, bytes]:
    seeds = {f"bmp-{mode}": _save(_draw(mode), "BMP") for mode in ("1", "L", "P", "RGB", "RGBA")}
    runs_8 = (b"\x05\xf0\x10\x10\x00\x05\x01\x02\x03\x04\x05\x00" + b"\x16\xf0\x00\x00") * HEIGHT + b"\0\1"
    runs_4 = (b"\x06\xef\x0a\x00\x00\x04\x12\x34" + b"\x1c\xff\x00\x00") * HEIGHT + b"\0\1"
    seeds["bmp-runs-8"] = _make_bmp(8, 1, runs_8)
    seeds["bmp-runs-4"] = _make_bmp(4, 2, b"\x08\xf0\0\x02\x04\x01" + runs_4)
    seeds["bmp-4"] = _make_bmp(4, 0, b"\x12\x34\x56" * (WIDTH // 6 * HEIGHT))
    masks = struct.pack("<III", 0xF800, 0x07E0, 0x001F)
    seeds["bmp-masks"] = _make_bmp(16, 3, b"\x12\x34" * (WIDTH * HEIGHT), masks)
    os2 = struct.pack("<IHHHH", 12, WIDTH, HEIGHT, 1, 24)
    pixels = np.asarray(_draw()).tobytes()
    seeds["bmp-os2"] = struct.pack("<2sIHHI", b"BM", 26 + len(pixels), 0, 0, 26) + os2 + pixels
    return seeds


def _make_bmp(bits: int, compression: int, content: bytes, masks: bytes = b"") -> bytes:
    colours = 1 << bits if bits <= 8 else 0
    palette = b"".join(struct.pack("<I", 255 * grey // (colours - 1) * 0x010101) for grey in range(colours))
    header = struct.pack("<IiiHHIIiiII", 40, WIDTH, HEIGHT, 1, bits, compression, len(content), 2835, 2835, colours, 0)
    start = 14 + len(header) + len(masks) + len(palette)
    return struct.pack("<2sIHHI", b"BM", start + len(content), 0, 0, start) + header + masks + palette + content


def _make_gifs() -> dict[str, bytes]:
    still = _save(_draw("L"), "GIF", interlace=1, comment=b"a line")
    return {
        "gif-grey": _save(_draw("L"), "GIF", interlace=0),
        "gif-interlaced": still,
        "gif-clear": _save(_draw("P"), "GIF", transparency=0),
        "gif-animated": _save(_draw("L"), "GIF", save_all=True, append_images=_make_frames(), duration=50, loop=0),
    }


def _make_others() -> dict[str, bytes]:
    """WebP, the Portable Anymaps, JPEG 2000, and some that are not read."""
    turned = _make_exif()
    grey, bits = np.asarray(_draw("L")), np.asarray(_draw("1"))
    head = b"%d %d\n" % SIZE
    plain = b" ".join(b"%d" % value for value in grey.ravel())
    seeds = {
        "webp-lossy": _save(_draw(), "WEBP"),
        "webp-lossless": _save(_draw(), "WEBP", lossless=True),
        "webp-alpha": _save(_draw("RGBA"), "WEBP", exif=turned),
        "webp-animated": _save(_draw(), "WEBP", save_all=True, append_images=_make_frames()),
        "pnm-1": b"P1\n# a line\n" + head + b" ".join(b"%d" % (not bit) for bit in bits.ravel()),
        "pnm-2": b"P2\n" + head + b"255\n" + plain,
        "pnm-3": b"P3\n" + head + b"255\n" + b" ".join(b"%d" % value for value in np.asarray(_draw()).ravel()),
        "pnm-4": _save(_draw("1"), "PPM"),
        "pnm-5": _save(_draw("L"), "PPM"),
        "pnm-6": _save(_draw(), "PPM"),
        "pnm-5-16": b"P5\n" + head + b"65535\n" + (grey.astype(np.uint16) * 257).astype(">u2").tobytes(),
        "pnm-5-10": b"P5\n" + head + b"1023\n" + (grey.astype(np.uint16) * 4).astype(">u2").tobytes(),
        "pnm-7": b"P7\nWIDTH 48\nHEIGHT 16\nDEPTH 1\nMAXVAL 255\nTUPLTYPE GRAYSCALE\nENDHDR\n" + grey.tobytes(),
        "pnm-f": b"Pf\n" + head + b"-1.0\n" + (grey / np.float32(255)).astype("<f4").tobytes(),
        "jpeg2000-tiles": _save(_draw(), "JPEG2000", tile_size=(16, 16), num_resolutions=2),
        "jpeg2000-lossy": _save(_draw(), "JPEG2000", irreversible=True, quality_layers=[20, 10], no_jp2=True),
        "jpeg2000-precincts": _save(_draw("L"), "JPEG2000", precinct_size=(32, 32), codeblock_size=(16, 16)),
        "avif-colour": _save(_draw(), "AVIF"),
        "ico-colour": _save(_draw(), "ICO"),
        "pdf-page": b"%PDF-1.4\n1 0 obj\n<< /Type /Catalog >>\nendobj\ntrailer << /Root 1 0 R >>\n%%EOF\n",
    }
    for mode in ("L", "LA", "RGB", "RGBA", "I;16"):
        seeds[f"jpeg2000-{mode}"] = _save(_draw(mode), "JPEG2000")
    return seeds
