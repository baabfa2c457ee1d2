"""What a listed image is, and how any local name becomes text and a name again."""

import datetime
import os
import pathlib
import subprocess
import sys
import threading
import uuid

import pytest

from components.listing import ImageReference, list_images, path_to_uri, read_image, uri_to_path
from components.listing.references import location_to_uri, read_regular_file
from tfrecords import storage

ODD_NAMES = [
    b"plain.png",
    b"a[1].png",
    b"a*b?.png",
    b"with space.png",
    b"two\nlines.png",
    b"100%.png",
    b"100%25.png",
    b"%FF.png",
    "日本 é.png".encode(),
    "de\u0301compose\u0301.png".encode(),
    b"latin-\xe9.png",
    b"\xff\xfe.png",
    b"half a letter \xe6\x97.png",
    b"#fragment?query=1.png",
    b"'quotes\".png",
    b"back\\slash.png",
    b"comma,semicolon;.png",
]


# URIs


@pytest.mark.parametrize("name", ODD_NAMES)
def test_any_name_becomes_text_and_is_found_again(tmp_path, name):
    path = os.path.join(os.fsencode(tmp_path), name)
    with open(path, "wb") as file:
        file.write(name)
    (reference,) = list_images(str(tmp_path))
    reference.uri.encode()  # UTF-8, as Beam and Parquet want it
    reference.key.encode()
    assert os.fsencode(uri_to_path(reference.uri)) == path
    assert read_image(reference.uri) == name


def test_different_names_have_different_uris():
    uris = {path_to_uri(os.fsdecode(name)) for name in ODD_NAMES}
    assert len(uris) == len(ODD_NAMES)


def test_an_ordinary_path_is_its_own_uri():
    assert path_to_uri("/scans/a b[1]é.png") == "/scans/a b[1]é.png"


@pytest.mark.parametrize("name", ["é", "e\u0301"])
def test_a_uri_keeps_the_normal_form_of_the_name(name):
    assert path_to_uri(name) == name
    assert uri_to_path(name) == name


@pytest.mark.parametrize(("name", "uri"), [(b"100%.png", "100%25.png"), (b"\xe9%", "%E9%25"), (b"%E9", "%25E9")])
def test_percent_signs_and_bytes_that_are_not_utf_8_are_percent_encoded(name, uri):
    assert path_to_uri(os.fsdecode(name)) == uri


def test_a_url_is_neither_encoded_nor_decoded():
    assert uri_to_path("gs://bucket/a%20b.png") == "gs://bucket/a%20b.png"
    assert location_to_uri("gs://bucket/100%.png") == "gs://bucket/100%.png"
    assert location_to_uri("/bucket/100%.png") == "/bucket/100%25.png"


def test_uris_are_the_same_whatever_encoding_python_takes_for_names(tmp_path):
    names = [b"a\xc3\xbc b.png", b"caf\xe9 100%.png", "中.png".encode()]
    for name in names:
        (pathlib.Path(os.fsdecode(bytes(tmp_path) + b"/" + name))).touch()
    program = (
        "import os, sys\nfrom components.listing.references import path_to_uri, read_image, uri_to_path\n"
        "uris = [path_to_uri(os.path.join(sys.argv[1], name)) for name in sorted(os.listdir(sys.argv[1]))]\n"
        "assert [read_image(uri) for uri in uris] == [b''] * 3\n"
        "print(sys.getfilesystemencoding(), ascii(sorted(uris)))"
    )
    told = []
    for mode, environment in (("0", {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"}), ("1", {})):
        done = subprocess.run(
            [sys.executable, "-c", program, str(tmp_path)],
            env={**os.environ, **environment, "PYTHONUTF8": mode},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        told.append(done.stdout.split(maxsplit=1))
    assert [encoding for encoding, _ in told] == ["ascii", "utf-8"]
    assert told[0][1] == told[1][1]
    assert "/a\\xfc b.png" in told[0][1]


# References


def test_an_image_is_split_by_its_group_if_it_has_one_and_else_by_its_key():
    image = ImageReference("/scans/a.png", "scans/a.png", 1, 2)
    assert image.split_key == "scans/a"
    assert image._replace(group="page 7").split_key == "page 7"


def test_a_rejected_image_is_the_same_image_with_a_reason():
    image = ImageReference("/scans/a.png", "scans/a.png", 1, 2, group="page 7")
    assert image.reject("no_label", "why") == image._replace(problem="no_label", detail="why")
    assert image.reject("no_label", "why").text is None


@pytest.mark.parametrize(("microseconds", "year"), [(0, 1970), (-1, 1969), (1_790_000_000_123_456, 2026)])
def test_the_time_of_the_last_change_is_in_utc(microseconds, year):
    modified = ImageReference("a", "a", 0, microseconds).modified
    assert (modified.year, modified.tzinfo) == (year, datetime.UTC)
    assert modified - datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC) == datetime.timedelta(
        microseconds=microseconds
    )


# Reading


def test_a_file_is_read_whole_or_its_first_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"12345")
    assert read_regular_file(str(tmp_path / "a")) == b"12345"
    assert read_regular_file(str(tmp_path / "a"), 3) == b"123"


def test_a_url_is_read_whole_or_its_first_bytes():
    url = f"memory://{uuid.uuid4().hex}/a"
    storage.write_bytes(url, b"12345")
    assert read_regular_file(url) == b"12345"
    assert read_regular_file(url, 3) == b"123"
    storage.remove_file(url)
    with pytest.raises(FileNotFoundError):
        read_image(url)


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo], ids=["folder", "pipe"])
def test_what_is_not_a_regular_file_is_an_error_and_not_waited_for(tmp_path, make):
    make(tmp_path / "100%.png")
    errors: list[OSError] = []

    def read():
        try:
            read_image(f"{tmp_path}/100%25.png")
        except OSError as error:
            errors.append(error)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(10)
    (error,) = errors
    assert str(error) == f"{tmp_path}/100%25.png is not a regular file"
