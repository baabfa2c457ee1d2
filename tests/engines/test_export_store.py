"""The export of a workspace in an object store, of pages that lie there too."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from components.layout import parse_page_file
from pipeline.exits import EXIT_DONE
from tests.commands import run_command
from tests.rendered_pages import LineOnPage, draw_page, write_alto
from tfrecords import storage

pytestmark = pytest.mark.slow


@pytest.fixture
def pages(store, object_store, tiny_images, tmp_path) -> str:
    """A folder of the bucket with two pages of three lines and their ALTO files."""
    images = enumerate(sorted(tiny_images.glob("*.png"))[:3])
    lines = [LineOnPage(Image.open(path), None, f"l{number}") for number, path in images]
    for number in range(2):
        page = tmp_path / f"{number}.png"
        write_alto(tmp_path / f"{number}.xml", page, lines, draw_page(lines, page))
        for name in (f"{number}.png", f"{number}.xml"):
            object_store.put(f"{store}/pages/{name}", (tmp_path / name).read_bytes())
    return f"{store}/pages"


def test_pages_in_a_bucket_are_exported_into_it_once(store, object_store, pages, tmp_path, capsys):
    def run(step: str, *flags: str) -> int:
        return run_command(f"{store}/ws", f"--steps={step}", *flags)

    infer = (f"--infer_images={pages}", "--pages")
    assert run("infer", *infer) == EXIT_DONE
    for name, suffix in (("alto", "xml"), ("hocr", "hocr"), ("txt", "txt")):
        capsys.readouterr()
        assert run("export", f"--format={name}") == EXIT_DONE
        assert f"2 files written, 0 unchanged: 6 readings as {name}, none rejected" in capsys.readouterr().out
        assert run("export", f"--format={name}") == EXIT_DONE
        assert f"nothing new to export: 2 files with 6 readings as {name}" in capsys.readouterr().out
        below = pages.replace("://", "/")
        names = storage.list_names(f"{store}/ws/export/{name}/{below}")
        assert names == [f"0.{suffix}", f"1.{suffix}"]
    text = storage.read_bytes(f"{store}/ws/export/txt/{below}/0.txt").decode().splitlines()
    copy = parse_page_file(storage.read_bytes(f"{store}/ws/export/alto/{below}/0.xml"))
    assert [line.text for line in copy.lines] == text
    object_store.put(f"{pages}/1.xml", Path(tmp_path / "1.xml").read_bytes() + b"\n")
    assert run("export", "--format=alto") == EXIT_DONE
    assert "nothing new to export" in capsys.readouterr().out
    assert run("infer", *infer) == EXIT_DONE
    assert run("export", "--format=alto") == EXIT_DONE
    assert "1 file written, 1 unchanged: 6 readings as alto, none rejected" in capsys.readouterr().out
