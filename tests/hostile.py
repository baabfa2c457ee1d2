"""A corpus of hostile inputs: files, names and labels as real collections hold them, and what must become of each.

Everything is built by code in a folder that the caller names; nothing here imports the product. Every image that
is meant to be read shows the same line, `line()`, so that one look at its pixels tells whether it was read rightly.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import io
import os
import pathlib
import random
import stat
import struct
import threading
import unicodedata
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image, ImageCms, ImageDraw, ImageFont

WRITTEN = "written"
ORDINARY = "an ordinary line"
LABEL = "ab12"
LINE_SIZE = (80, 20)
"""Width and height of the line that the images show."""
INK = (8, 4, 40, 10)
"""The line's black block: left, top, right and bottom, the last two outside. Turned or mirrored, it lies elsewhere."""

_EXIF_ORIENTATION = 0x0112
_TIFF_NEW_SUBFILE_TYPE, _TIFF_PHOTOMETRIC = 254, 262
_REDUCED_RESOLUTION, _WHITE_IS_ZERO = 1, 0

# A stem; what is hostile about it; what becomes of the image if its label is its name, and that label.
_NAMES = (
    ("[x]", "brackets, which a glob reads as a set", WRITTEN, "[x]"),
    ("*", "an asterisk, which a glob reads as anything", WRITTEN, "*"),
    ("?", "a question mark, which a glob reads as any character", WRITTEN, "?"),
    (" two  words ", "spaces at both ends and two in a row", WRITTEN, "two words"),
    (" ", "a space and nothing else", "empty_label", None),
    ("two\nlines", "a newline", "several_lines", None),
    ("bell\x07", "a control character", "label_not_text", None),
    ("-rf", "a leading dash, as of an option", WRITTEN, "-rf"),
    ("%41", "a percent sign before two digits, as in a URL", WRITTEN, "%41"),
    ("it's", "an apostrophe", WRITTEN, "it's"),
    ('say "a"', "quotation marks", WRITTEN, 'say "a"'),
    ("a;b", "a semicolon, which ends a shell command", WRITTEN, "a;b"),
    ("$(a)`b`", "what a shell would run", WRITTEN, "$(a)`b`"),
    ("a,b", "a comma, which separates the folders of --images", WRITTEN, "a,b"),
    ("back\\slash", "a backslash", WRITTEN, "back\\slash"),
    ("a#b&c", "characters with a meaning in URLs", WRITTEN, "a#b&c"),
    ("ab" * 100, "200 characters", WRITTEN, "ab" * 100),
    (os.fsdecode(b"caf\xe9"), "Latin-1 bytes that are not UTF-8", "label_not_text", None),
    ("\N{SLIGHTLY SMILING FACE}", "an emoji", WRITTEN, "\N{SLIGHTLY SMILING FACE}"),
    ("caf\u00e9", "a composed letter; its decomposed twin lies beside it", WRITTEN, "caf\u00e9"),
    ("cafe\u0301", "a decomposed letter; its composed twin lies beside it", WRITTEN, "caf\u00e9"),
)


@dataclasses.dataclass(frozen=True)
class HostileInput:
    """One input of a corpus, and what must become of it.

    Attributes:
        name: path below the corpus's folder, as the file system gives it.
        expected: `written`, or the reason of its reject.
        description: what is hostile about it.
        text: the label of its example, if it is written.
        flag: the flag that the detail of its reject names, or empty.
    """

    name: str
    expected: str
    description: str
    text: str | None = None
    flag: str = ""


def build_corpus(folder: pathlib.Path) -> list[HostileInput]:
    """Writes hostile inputs, and files that are none, to be ingested with labels from sidecars.

    Args:
        folder: does not exist yet; what its links point to is put beside it, under `elsewhere`.
    """
    corpus = _Corpus(folder)
    for add in (
        _add_damaged,
        _add_too_large_or_small,
        _add_misnamed,
        _add_several_images,
        _add_pixel_formats,
        _add_unsupported_pixels,
        _add_no_images,
        _add_names,
        _add_special_files,
        _add_folders,
        _add_sidecars,
        _add_texts,
    ):
        add(corpus)
    _write_what_is_not_listed(folder)
    return corpus.inputs


def build_names(folder: pathlib.Path) -> list[HostileInput]:
    """Writes images with hostile names and no sidecars, to be ingested with labels from the names."""
    corpus = _Corpus(folder)
    for stem, description, expected, text in _NAMES:
        corpus.add(f"{stem}.png", expected, description, _wide_png(), label=None, text=text)
    return corpus.inputs


def build_good_images(folder: pathlib.Path, count: int = 30) -> list[HostileInput]:
    """Writes ordinary lines, labelled by their names and their sidecars alike, into a folder that may hold others."""
    corpus = _Corpus(folder)
    for number in range(count):
        text = f"line {number:02d}"
        image = Image.new("L", (120, 32), 240)
        ImageDraw.Draw(image).text((8, 4), text, font=ImageFont.load_default(20), fill=20)
        corpus.add(f"{text}.png", WRITTEN, ORDINARY, _file_of(image), label=text.encode())
    return corpus.inputs


@contextlib.contextmanager
def readers_of_pipes_released(folder: pathlib.Path, seconds: float = 5) -> Iterator[None]:
    """Ends every attempt to read a named pipe in a folder after some seconds, with no bytes.

    Without it, a program that opens a pipe to read it would wait for ever, and so would the test.
    """
    pipes = [path for path in folder.iterdir() if path.is_fifo()]
    done = threading.Event()

    def release() -> None:
        while not done.wait(seconds):
            for pipe in pipes:
                os.close(os.open(pipe, os.O_RDWR | os.O_NONBLOCK))

    thread = threading.Thread(target=release)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def line() -> Image.Image:
    """The line that all images show: white, with a black block in its upper left."""
    image = Image.new("L", LINE_SIZE, 255)
    image.paste(0, INK)
    return image


class _Corpus:
    """Inputs that are written into one folder, and remembered."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        self.elsewhere = folder.parent / "elsewhere"
        self.inputs: list[HostileInput] = []
        folder.mkdir(parents=True, exist_ok=True)
        self.elsewhere.mkdir(exist_ok=True)

    def add(
        self,
        name: str,
        expected: str,
        description: str,
        content: bytes,
        *,
        label: bytes | None = LABEL.encode(),
        sidecar_suffix: str = ".gt.txt",
        text: str | None = None,
        flag: str = "",
    ) -> None:
        """Writes a file, and its label beside it unless that is None."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        if label is not None:
            self.write_sidecar(name, label, suffix=sidecar_suffix)
            text = text or (label.decode() if expected == WRITTEN else None)
        self.remember(name, expected, description, text=text, flag=flag)

    def remember(self, name: str, expected: str, description: str, *, text: str | None = None, flag: str = "") -> None:
        """Counts as an input what was put there by other means."""
        self.inputs.append(HostileInput(name, expected, description, text, flag))

    def write_sidecar(self, name: str, label: bytes = LABEL.encode(), *, suffix: str = ".gt.txt") -> None:
        pathlib.Path(os.path.splitext(self.folder / name)[0] + suffix).write_bytes(label)


def _add_damaged(corpus: _Corpus) -> None:
    png = _file_of(_noise())
    jpeg = _file_of(_noise(), "JPEG")
    flipped = bytearray(png)
    flipped[len(flipped) // 2] ^= 0xFF
    corpus.add("empty.png", "empty_file", "zero bytes", b"")
    corpus.add("half.png", "truncated", "the first half of a PNG", png[: len(png) // 2])
    corpus.add("half.jpg", "truncated", "the first half of a JPEG", jpeg[: len(jpeg) // 2])
    corpus.add("half.tif", "truncated", "the first half of a TIFF", _first_half(_file_of(_noise(), "TIFF")))
    corpus.add("half.gif", "truncated", "the first half of a GIF", _first_half(_file_of(_noise(), "GIF")))
    corpus.add("half.webp", "truncated", "the first half of a WebP", _first_half(_file_of(_noise(), "WEBP")))
    corpus.add("half.bmp", "truncated", "the first half of a BMP", _first_half(_file_of(_noise(), "BMP")))
    corpus.add("wrong-checksum.png", "truncated", "a PNG whose pixels have a wrong CRC", _with_wrong_checksum(png))
    corpus.add("flipped-byte.png", "truncated", "a PNG with one damaged byte among its pixels", bytes(flipped))
    corpus.add("signature-alone.png", "truncated", "the 8 bytes that every PNG starts with, and no more", png[:8])
    corpus.add("half-a-header.png", "truncated", "a PNG cut inside its header", png[:20])


def _add_too_large_or_small(corpus: _Corpus) -> None:
    corpus.add(
        "bomb.png",
        "too_large",
        "a few bytes that claim 900 million pixels",
        _png_that_claims(30_000, 30_000),
        flag="--max_pixels",
    )
    corpus.add(
        "small-bomb.png",
        "too_large",
        "more pixels than --max_pixels, fewer than Pillow warns of",
        _png_that_claims(6_000, 6_000),
        flag="--max_pixels",
    )
    corpus.add("thread.png", "too_small", "one pixel high", _file_of(Image.new("L", (100_000, 1), 255)))
    corpus.add("pixel.png", "too_small", "one pixel", _file_of(Image.new("L", (1, 1), 255)))
    corpus.add(
        "wide.png",
        "too_large",
        "few pixels, but 180,000 pixels wide when scaled to the line height",
        _file_of(Image.new("L", (30_000, 8), 255)),
        flag="--max_line_width",
    )
    corpus.add(
        "heavy.png", "too_large", "60 million bytes, most of them a hole in the file", _line_png(), flag="--max_bytes"
    )
    os.truncate(corpus.folder / "heavy.png", 60_000_000)


def _add_misnamed(corpus: _Corpus) -> None:
    corpus.add("a-jpeg.png", WRITTEN, "a JPEG named as a PNG", _file_of(line(), "JPEG", quality=95))
    corpus.add("a-png.jpg", WRITTEN, "a PNG named as a JPEG", _line_png())
    corpus.add("no-suffix", WRITTEN, "a PNG without a suffix", _line_png())
    corpus.add("unknown-suffix.dat", WRITTEN, "a PNG with a suffix that no image format has", _line_png())


def _add_several_images(corpus: _Corpus) -> None:
    other = line().transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    for name, file_format in (("animated.gif", "GIF"), ("animated.png", "PNG"), ("animated.webp", "WEBP")):
        content = _file_of(line(), file_format, save_all=True, append_images=[other])
        corpus.add(name, "several_images", f"a {file_format} of two frames", content)
    content = _file_of(line(), "TIFF", save_all=True, append_images=[other])
    corpus.add("two-pages.tif", "several_images", "a TIFF of two pages", content)
    thumbnail = other.resize((40, 10))
    thumbnail.encoderinfo = {"tiffinfo": {_TIFF_NEW_SUBFILE_TYPE: _REDUCED_RESOLUTION}}
    content = _file_of(line(), "TIFF", save_all=True, append_images=[thumbnail])
    corpus.add("with-thumbnail.tif", WRITTEN, "a TIFF whose second page is a thumbnail of the first", content)
    content = _file_of(
        line().convert("RGB"), "MPO", save_all=True, append_images=[other.convert("RGB")], quality=95, subsampling=0
    )
    corpus.add("phone.jpg", WRITTEN, "a JPEG with a second picture behind the first, as phones write it", content)


def _add_pixel_formats(corpus: _Corpus) -> None:
    colour = line().convert("RGB")
    ink = Image.eval(line(), lambda value: 255 - value)
    white, black = (Image.new("L", LINE_SIZE, value) for value in (255, 0))
    sixteen_bits = np.asarray(line()).astype(np.uint16) * 257
    for name, description, content in (
        ("1-bit.png", "a PNG of 1 bit a pixel", _file_of(line().convert("1"))),
        ("16-bit.png", "a grey PNG of 16 bits a pixel", _file_of(Image.fromarray(sixteen_bits))),
        ("16-bit.tif", "a grey TIFF of 16 bits a pixel", _file_of(Image.fromarray(sixteen_bits), "TIFF")),
        ("16-bit.pgm", "a PGM of 16 bits a pixel", _pgm(sixteen_bits, 0xFFFF)),
        ("10-bit.pgm", "a PGM whose greatest value is 1023", _pgm(sixteen_bits >> 6, 1023)),
        ("8-bit.pgm", "a PGM of 8 bits a pixel", _pgm(np.asarray(line()), 255)),
        ("windows.bmp", "a BMP", _file_of(line(), "BMP")),
        ("one-frame.gif", "a GIF of one frame", _file_of(line(), "GIF")),
        ("lossless.webp", "a lossless WebP", _file_of(line(), "WEBP", lossless=True)),
        ("boxed.jp2", "a JPEG 2000 file", _file_of(line(), "JPEG2000")),
        ("bare.j2k", "a JPEG 2000 codestream without a file around it", _file_of(line(), "JPEG2000", no_jp2=True)),
        ("cmyk.jpg", "a CMYK JPEG", _file_of(colour.convert("CMYK"), "JPEG", quality=95)),
        ("cmyk.tif", "a CMYK TIFF", _file_of(colour.convert("CMYK"), "TIFF")),
        ("lab.tif", "a CIELAB TIFF", _file_of(_to_lab(colour), "TIFF")),
        ("ycbcr.tif", "a TIFF of luma and chroma", _file_of(colour.convert("YCbCr"), "TIFF", compression="jpeg")),
        ("white-is-zero.tif", "a TIFF whose 0 is white", _white_is_zero(line())),
        ("white-is-zero-1-bit.tif", "a TIFF of 1 bit whose 0 is white, as of fax", _white_is_zero(line().convert("1"))),
        (
            "white-is-zero-16-bit.tif",
            "a TIFF of 16 bits whose 0 is white",
            _white_is_zero(Image.fromarray(0xFFFF - sixteen_bits)),
        ),
        ("palette.png", "a PNG with a palette", _file_of(_with_palette())),
        ("palette-transparent.png", "a palette of which one is transparent", _file_of(_with_palette(), transparency=0)),
        ("la.png", "grey with black ink on a transparent ground", _file_of(Image.merge("LA", (black, ink)))),
        (
            "rgba.png",
            "colour with black ink on a transparent ground",
            _file_of(Image.merge("RGBA", (*[black] * 3, ink))),
        ),
        ("white-ink-la.png", "white ink on a transparent ground", _file_of(Image.merge("LA", (white, ink)))),
        ("white-ink-rgba.png", "white ink on a transparent ground", _file_of(Image.merge("RGBA", (*[white] * 3, ink)))),
        ("turned.jpg", "a JPEG that lies on its side and says so in EXIF", _turned_jpeg()),
    ):
        corpus.add(name, WRITTEN, description, content)


def _add_unsupported_pixels(corpus: _Corpus) -> None:
    for name, description, content in (
        ("32-bit.tif", "a TIFF of 32-bit integers", _file_of(Image.new("I", LINE_SIZE, 70_000), "TIFF")),
        ("float.tif", "a TIFF of floating point numbers", _file_of(Image.new("F", LINE_SIZE, 0.5), "TIFF")),
        ("float.pfm", "a float map, a cousin of PGM", _file_of(Image.new("F", LINE_SIZE, 0.5), "PPM")),
    ):
        corpus.add(name, "unsupported_pixels", description, content)


def _add_no_images(corpus: _Corpus) -> None:
    for name, description, content in (
        ("text.png", "plain text", b"to be scanned again on Monday\n"),
        ("html.png", "a web page, as a failed download leaves it", b"<!DOCTYPE html><title>404 Not Found</title>"),
        ("svg.png", "an SVG drawing", b'<svg xmlns="http://www.w3.org/2000/svg" width="80" height="20"/>'),
        ("pdf.png", "a PDF", b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n<< /Type /Catalog >>\nendobj\n"),
        ("postscript.png", "PostScript", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 80 20\nshowpage\n"),
        ("random.png", "random bytes", random.Random(0).randbytes(1000)),
        ("zeros.png", "zeros, as a full disk leaves them", bytes(1000)),
        ("gzip.png", "a compressed PNG", gzip.compress(_line_png(), mtime=0)),
        ("windows.png", "a Windows program", b"MZ\x90\0\x03\0\0\0\x04\0\0\0\xff\xff" + bytes(200) + b"PE\0\0"),
    ):
        corpus.add(name, "not_an_image", description, content)


def _add_names(corpus: _Corpus) -> None:
    for stem, description, _, _ in _NAMES:
        corpus.add(f"names/{stem}.png", WRITTEN, f"in its name, {description}", _line_png())


def _add_special_files(corpus: _Corpus) -> None:
    folder = corpus.folder
    (folder / "nowhere.png").symlink_to("no-such-file.png")
    (folder / "itself.png").symlink_to("itself.png")
    os.mkfifo(folder / "pipe.png")
    os.mknod(folder / "socket.png", stat.S_IFSOCK | 0o600)
    (folder / "memory.png").symlink_to("/proc/self/mem")
    (folder / "endless.png").symlink_to("/dev/zero")
    for name, description in (
        ("nowhere.png", "a link to a file that does not exist"),
        ("itself.png", "a link to itself"),
        ("pipe.png", "a named pipe, which a reader would wait at for ever"),
        ("socket.png", "a Unix socket"),
        ("memory.png", "a link to a regular file that cannot be read from its start, not even by root"),
        ("endless.png", "a link to a device that gives bytes for ever"),
    ):
        corpus.write_sidecar(name)
        corpus.remember(name, "unreadable", description)
    (corpus.elsewhere / "target.png").write_bytes(_line_png())
    (folder / "link.png").symlink_to(corpus.elsewhere / "target.png")
    corpus.write_sidecar("link.png")
    corpus.remember("link.png", WRITTEN, "a link to an image that lies elsewhere", text=LABEL)


def _add_folders(corpus: _Corpus) -> None:
    corpus.add("folder.png/inside.png", WRITTEN, "an image in a folder that is named like one", _line_png())
    outside = corpus.elsewhere / "folder"
    outside.mkdir()
    (outside / "outside.png").write_bytes(_line_png())
    (outside / "outside.gt.txt").write_text(LABEL)
    (corpus.folder / "linked").symlink_to(outside)
    corpus.remember("linked/outside.png", WRITTEN, "an image in a linked folder that lies elsewhere", text=LABEL)


def _add_sidecars(corpus: _Corpus) -> None:
    png = _line_png()
    for name, expected, description, label in (
        ("none.png", "no_label", "no sidecar", None),
        ("blank.png", "empty_label", "an empty sidecar", b""),
        ("white-space.png", "empty_label", "a sidecar of white space", b" \t\r\n\n"),
        ("byte-order-mark-alone.png", "empty_label", "a sidecar of a byte order mark", b"\xef\xbb\xbf"),
        ("latin-1.png", "label_not_text", "a sidecar in Latin-1", "Müller".encode("latin-1")),
        ("utf-16.png", "label_not_text", "a sidecar in UTF-16, as Windows writes it", "ab".encode("utf-16")),
        ("two-lines.png", "several_lines", "a sidecar of two lines", b"first\nsecond\n"),
        ("two-lines-crlf.png", "several_lines", "a sidecar of two lines from Windows", b"first\r\n\r\nsecond\r\n"),
        ("nul.png", "label_not_text", "a sidecar with a NUL", b"ab\x0012"),
        ("escape.png", "label_not_text", "a sidecar with a terminal's escape sequence", b"\x1b[31mab12\x1b[0m"),
        ("delete.png", "label_not_text", "a sidecar with a control character above the letters", b"ab\x7f12"),
        ("endless-label.png", "label_too_long", "a sidecar of 2 MB", b"ab" * 1_000_000),
        ("tight.png", "label_too_long", "60 symbols on an image of 48 time steps", b"ab" * 30),
    ):
        corpus.add(f"sidecars/{name}", expected, description, png, label=label)
    corpus.add(
        "sidecars/600-symbols.png",
        "label_too_long",
        "600 symbols on an image that has room for them",
        _wide_png(),
        label=b"ab" * 300,
        flag="--max_label_length",
    )
    for name, description, label, text in (
        ("byte-order-mark.png", "a sidecar with a byte order mark", b"\xef\xbb\xbfab12", LABEL),
        ("newlines.png", "a sidecar with empty lines around the only one", b"\nab12\n\n\n", LABEL),
        ("crlf.png", "a sidecar from Windows", b"ab12\r\n", LABEL),
        ("tab.png", "a sidecar with a tab between two words", b"ab\t12\n", "ab 12"),
    ):
        corpus.add(f"sidecars/{name}", WRITTEN, description, png, label=label, text=text)
    corpus.add("sidecars/500-symbols.png", WRITTEN, "as many symbols as may be", _wide_png(), label=b"ab" * 250)

    corpus.add("sidecars/both.png", WRITTEN, "two sidecars that differ", png)
    corpus.write_sidecar("sidecars/both.png", b"wrong", suffix=".txt")
    corpus.add("sidecars/IMAGE.PNG", WRITTEN, "a name in capitals", png, sidecar_suffix=".TXT")
    corpus.add("sidecars/TRUTH.PNG", WRITTEN, "a name in capitals", png, sidecar_suffix=".GT.TXT")
    corpus.add("sidecars/000001.bin.png", WRITTEN, "named as OCR training tools name it", png, label=None, text=LABEL)
    (corpus.folder / "sidecars" / "000001.gt.txt").write_text(LABEL)

    corpus.add("sidecars/folder.png", "no_label", "a folder where the sidecar should be", png, label=None)
    (corpus.folder / "sidecars" / "folder.gt.txt").mkdir()
    corpus.add("sidecars/nowhere.png", "no_label", "a sidecar that is a broken link", png, label=None)
    (corpus.folder / "sidecars" / "nowhere.gt.txt").symlink_to("no-such-file.txt")
    corpus.add("sidecars/memory.png", "no_label", "a sidecar that cannot be read", png, label=None)
    (corpus.folder / "sidecars" / "memory.gt.txt").symlink_to("/proc/self/mem")
    corpus.add("label-from-a-pipe.png", "no_label", "a named pipe where the sidecar should be", png, label=None)
    os.mkfifo(corpus.folder / "label-from-a-pipe.gt.txt")


def _add_texts(corpus: _Corpus) -> None:
    for name, description, label, text in (
        ("decomposed.png", "letters and their marks apart", unicodedata.normalize("NFD", "Müllér"), "Müllér"),
        ("vietnamese.png", "two marks on a letter, apart", unicodedata.normalize("NFD", "Tiếng Việt"), "Tiếng Việt"),
        ("uncomposed.png", "a letter and a mark that have no composed form", "m\u0303a", "m\u0303a"),
        ("arabic.png", "Arabic", "مرحبا 12", "مرحبا 12"),
        ("hebrew.png", "Hebrew with a Latin word inside", "שלום ab עולם", "שלום ab עולם"),
        ("persian.png", "Persian with a zero-width non-joiner, which changes its shape", "می\u200cروم", "می\u200cروم"),
        ("emoji.png", "an emoji of two code points", "ok \U0001f44d\U0001f3fd", "ok \U0001f44d\U0001f3fd"),
        ("ligature.png", "a ligature, which only a compatibility form would take apart", "ﬁn²", "ﬁn²"),
    ):
        corpus.add(f"texts/{name}", WRITTEN, f"a label of {description}", _line_png(), label=label.encode(), text=text)


def _write_what_is_not_listed(folder: pathlib.Path) -> None:
    """What lies in every collection and is no image: hidden files, companions, and a way back to the start."""
    for name in (".hidden.png", "._resource.png", ".thumbnails/line.png", "empty-folder/.keep"):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(_line_png())
    for name in (
        "README.md",
        "labels.csv",
        "labels.TSV",
        "page.xml",
        "index.json",
        "lines.jsonl",
        "scan.log",
        "a.html",
    ):
        (folder / name).write_text(LABEL)
    (folder / "without-an-image.gt.txt").write_text(LABEL)
    (folder / "folder.png" / "round").symlink_to(folder)


def _file_of(image: Image.Image, file_format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def _line_png() -> bytes:
    return _file_of(line())


def _wide_png() -> bytes:
    """A line with room for 660 time steps at a height of 48 pixels."""
    image = Image.new("L", (1100, 20), 255)
    image.paste(0, INK)
    return _file_of(image)


def _noise() -> Image.Image:
    """Pixels that no compression makes small, so that half a file is half an image."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 128), np.uint8))


def _first_half(content: bytes) -> bytes:
    return content[: len(content) // 2]


def _with_wrong_checksum(png: bytes) -> bytes:
    start = png.index(b"IDAT")
    (length,) = struct.unpack(">I", png[start - 4 : start])
    end = start + 4 + length
    return png[:end] + bytes(byte ^ 0xFF for byte in png[end : end + 4]) + png[end + 4 :]


def _png_that_claims(width: int, height: int) -> bytes:
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(bytes(1000))),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )


def _pgm(pixels: np.ndarray, greatest: int) -> bytes:
    height, width = pixels.shape
    header = f"P5\n{width} {height}\n{greatest}\n".encode()
    return header + pixels.astype(">u2" if greatest > 255 else "u1").tobytes()


def _white_is_zero(image: Image.Image) -> bytes:
    """A TIFF of reversed polarity; Pillow turns its values round for up to 8 bits, and stores 16 as they are."""
    return _file_of(image, "TIFF", tiffinfo={_TIFF_PHOTOMETRIC: _WHITE_IS_ZERO})


def _with_palette() -> Image.Image:
    """The line as the indices 0 of its ground and 1 of its ink."""
    image = Image.new("P", LINE_SIZE, 0)
    image.paste(1, INK)
    image.putpalette([255, 255, 255, 0, 0, 0])
    return image


def _to_lab(image: Image.Image) -> Image.Image:
    transform = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    converted = ImageCms.applyTransform(image, transform)
    assert converted is not None
    converted.info.pop("icc_profile", None)
    return converted


def _turned_jpeg() -> bytes:
    exif = Image.Exif()
    exif[_EXIF_ORIENTATION] = 6
    return _file_of(line().transpose(Image.Transpose.ROTATE_90), "JPEG", exif=exif, quality=95)
