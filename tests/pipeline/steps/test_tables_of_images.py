"""Collections in tables of images, by the command itself: from tables to datasets, predictions and rejects."""

import os
import pathlib
import shutil

import duckdb
import pytest

from components.recogniser import load_recogniser
from pipeline.exits import EXIT_DONE, EXIT_REFUSED
from tests.commands import make_workspace, run_command
from tests.components.archives.lmdb_pages import put_lmdb
from tests.components.archives.tables import TABLE_KINDS, Row, put_table
from tests.results import read_dataset


@pytest.fixture
def workspace(tmp_path, tiny_model) -> pathlib.Path:
    return make_workspace(tmp_path / "ws", tiny_model, model_id="first")


@pytest.fixture
def rows(tiny_images) -> list[Row]:
    """24 images, each with its label."""
    images = sorted(tiny_images.glob("*.png"))
    return [(image.read_bytes(), find_text(image)) for image in images]


def find_text(image: pathlib.Path) -> str:
    (text,) = image.parent.glob(f"{image.stem}.*txt")
    return text.read_text().strip()


def infer(workspace: pathlib.Path, images: object, *flags: str) -> int:
    return run_command(workspace, "--steps=infer", f"--infer_images={images}", *flags)


def read(workspace: pathlib.Path, what: str = "predictions") -> list[tuple[str, str]]:
    """The URI, and the text or the reason, of every row, sorted; the same URI twice is twice."""
    found = list(workspace.glob(f"{what}/**/*.parquet"))
    column = "text" if what == "predictions" else "reason"
    if not found:
        return []
    table = f"select uri, {column} from read_parquet({list(map(str, found))}, hive_partitioning=false)"
    return sorted(duckdb.sql(table).fetchall())


def test_a_night_reads_tables_of_every_kind_as_it_reads_files(tmp_path, workspace, rows, tiny_images):
    for kind in TABLE_KINDS:
        put_table(tmp_path / "in", kind, rows)
    assert infer(workspace, tmp_path / "in") == EXIT_DONE
    plain = make_workspace(tmp_path / "plain", workspace / "models" / "first", model_id="first")
    assert infer(plain, tiny_images) == EXIT_DONE
    texts = [text for _, text in read(plain)]
    assert read(workspace) == sorted(
        (f"{tmp_path}/in/{kind}!/{row:08d}", text) for kind in TABLE_KINDS for row, text in enumerate(texts)
    )


def test_the_next_night_opens_no_table_that_did_not_change_and_reads_the_new_one(tmp_path, workspace, rows, capsys):
    kinds = TABLE_KINDS[:-1]
    first = [put_table(tmp_path / "in", kind, rows[:10]) for kind in kinds]
    assert infer(workspace, tmp_path / "in") == EXIT_DONE
    for path in first:
        status = os.stat(path)
        with open(path, "r+b") as file:
            file.write(bytes(status.st_size))  # whoever opened it would find no row
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    put_table(tmp_path / "in", TABLE_KINDS[-1], rows[10:])
    capsys.readouterr()
    assert infer(workspace, tmp_path / "in") == EXIT_DONE
    assert f"skipped={10 * len(kinds)}" in capsys.readouterr().out
    assert len(read(workspace)) == 10 * len(kinds) + 14
    assert infer(workspace, f"{tmp_path}/in/*") == EXIT_DONE
    assert "nothing new" in capsys.readouterr().out


@pytest.mark.parametrize("kind", TABLE_KINDS)
def test_every_row_is_read_or_rejected_once(tmp_path, workspace, rows, kind):
    path = put_table(tmp_path, kind, [*rows[:5], (None, "a"), (b"no image", "b"), (rows[6][0][:60], "c"), (b"", "d")])
    assert infer(workspace, path, "--max_reject_fraction=0.9") == EXIT_DONE
    assert [uri for uri, _ in read(workspace)] == [f"{path}!/{row:08d}" for row in range(5)]
    assert read(workspace, "rejects") == [
        (f"{path}!/00000005", "unusable_member"),
        (f"{path}!/00000006", "not_an_image"),
        (f"{path}!/00000007", "truncated"),
        (f"{path}!/00000008", "empty_file"),
    ]


@pytest.mark.parametrize("kind", TABLE_KINDS)
def test_an_ingested_table_gives_the_examples_of_its_files(tmp_path, rows, kind, tiny_images, capsys):
    def examples(workspace: pathlib.Path) -> list[tuple[str, bytes]]:
        _, lines = read_dataset(workspace)
        return sorted((text, pixels.tobytes()) for text, pixels in lines.values())

    put_table(tmp_path / "in", kind, rows)
    packed, plain = tmp_path / "packed", tmp_path / "plain"
    flags = ["--steps=ingest", "--validation_fraction=0", "--test_fraction=0"]
    assert run_command(packed, *flags, f"--images={tmp_path}/in/{kind}") == EXIT_DONE
    assert "labels come from the rows that hold the images" in capsys.readouterr().out
    assert run_command(plain, *flags, "--label_source=sidecar", f"--images={tiny_images}") == EXIT_DONE
    assert examples(packed) == examples(plain)


def test_a_database_of_lines_is_ingested_and_read(tmp_path, workspace, rows, capsys):
    path = put_lmdb(tmp_path / "in" / "lines", rows)
    assert run_command(tmp_path / "new", "--steps=ingest", f"--images={tmp_path}/in") == EXIT_DONE
    assert "labels come from the rows that hold the images" in capsys.readouterr().out
    assert infer(workspace, path) == EXIT_DONE
    assert [uri for uri, _ in read(workspace)] == [f"{path}!/{row:08d}" for row in range(1, len(rows) + 1)]
    assert infer(workspace, tmp_path / "in") == EXIT_DONE
    assert "nothing new" in capsys.readouterr().out


def test_the_column_of_texts_may_be_named_with_the_source_of_labels(tmp_path, rows):
    path = put_table(tmp_path, "a.parquet", rows)
    for source in ("auto", "sidecar"):
        flags = ["--steps=ingest", f"--images={path}", f"--label_source={source}", "--text_column=text"]
        assert run_command(tmp_path / source, *flags) == EXIT_DONE


@pytest.mark.parametrize("kind", ["a.parquet", "a.tfrecords.gz"])
def test_a_table_without_rows_is_refused_with_its_name(tmp_path, workspace, kind, capsys):
    path = put_table(tmp_path, kind, [])
    assert infer(workspace, path) == EXIT_REFUSED
    assert f"there is not one image in {path}" in capsys.readouterr().err


def test_a_row_is_recognised_by_its_path_from_python(tmp_path, workspace, rows):
    (tmp_path / "1.png").write_bytes(rows[17][0])
    recogniser = load_recogniser(str(workspace))
    for kind in TABLE_KINDS:
        path = put_table(tmp_path, kind, rows)
        packed, plain = recogniser.recognise([f"{path}!/00000017", f"{tmp_path}/1.png"])
        assert packed == plain


def test_the_report_shows_rows_that_were_rejected(tmp_path, workspace, rows):
    path = put_table(tmp_path, "a.parquet", [*rows, (rows[0][0][:200], None)])
    assert infer(workspace, path) == EXIT_DONE
    (report,) = workspace.glob("runs/*.html")
    page = report.read_text()
    assert "a.parquet!/00000024" in page
    assert "the file is gone" not in page
    assert page.count("data:image/") >= 2
    shutil.rmtree(workspace)


@pytest.mark.parametrize("images", ["in", "in/*.parquet"])
def test_tables_that_are_named_like_splits_give_them(tmp_path, rows, images, capsys):
    put_table(tmp_path / "in", "train-00000-of-00001.parquet", rows[:14])
    put_table(tmp_path / "in", "validation-00000-of-00001.parquet", rows[14:18])
    put_table(tmp_path / "in", "test-00000-of-00001.parquet", rows[18:])
    assert run_command(tmp_path / "ws", "--steps=ingest", f"--images={tmp_path}/{images}") == EXIT_DONE
    assert "24 written (14 train, 4 validation, 6 test)" in capsys.readouterr().out
