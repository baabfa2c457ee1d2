"""Reading the images that tables name, by the command itself, from files to committed Parquet."""

import json
import os
import pathlib
import random
import re
import shutil

import pyarrow.dataset
import pyarrow.parquet
import pytest

from pipeline.exits import EXIT_DONE, EXIT_REFUSED
from pipeline.main import main
from tests.commands import make_workspace


@pytest.fixture
def workspace(tmp_path, tiny_model) -> pathlib.Path:
    return make_workspace(tmp_path / "ws", tiny_model, model_id="first")


@pytest.fixture
def lines(tmp_path, tiny_images) -> list[str]:
    """The names of 24 images in the folder `lines`, each with its label in a text file beside it."""
    shutil.copytree(tiny_images, tmp_path / "lines")
    return sorted(path.name for path in tiny_images.glob("*.png"))


def infer(workspace: pathlib.Path, images: str, *argv: str) -> int:
    return main([f"--workspace={workspace}", "--steps=infer", f"--infer_images={images}", *argv])


def manifests(workspace: pathlib.Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in workspace.glob("predictions/*/*/_manifest.json")]


def predictions(workspace: pathlib.Path, run_id: str) -> list[dict]:
    (folder,) = workspace.glob(f"predictions/*/run={run_id}")
    rows = pyarrow.dataset.dataset([str(path) for path in folder.glob("*.parquet")]).to_table().to_pylist()
    return sorted(rows, key=lambda row: row["uri"])


def rejects(workspace: pathlib.Path, run_id: str) -> list[tuple[str, str, str]]:
    (folder,) = workspace.glob(f"rejects/*/run={run_id}")
    rows = pyarrow.dataset.dataset([str(path) for path in folder.glob("*.parquet")]).to_table().to_pylist()
    return sorted((row["uri"], row["reason"], row["detail"]) for row in rows)


def test_every_row_of_several_tables_and_every_file_of_a_folder_is_read_or_rejected_once(
    tmp_path, workspace, lines, capsys
):
    (tmp_path / "link").symlink_to("lines")
    table, other = tmp_path / "night 1.csv", tmp_path / "more" / "night.jsonl"
    rows = [f"lines/{name}" for name in lines[:10]] + [str(tmp_path / "lines" / lines[10]), f"link/{lines[0]}"]
    rows += [f"lines/{lines[3]}", "lines/gone.png", "lines", "lines/00-11.txt", ""]
    table.write_text("id;Scan\n" + "".join(f"{number};{row}\n" for number, row in enumerate(rows)) + "a;b;c\n")
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in lines[11:14]:
        shutil.copy2(tmp_path / "lines" / name, folder / name)
    (folder / "table.csv").write_text("Scan\nno.png\n")  # in a folder, no table is a list
    other.parent.mkdir()
    also = [f"../lines/{lines[20]}", f"../folder/{lines[11]}"]
    other.write_text("".join(json.dumps({"scan": row}) + "\n" for row in also))

    images = f"{tmp_path}/night*.csv,{folder},{other}"
    assert infer(workspace, images, "--path_column=scan", "--max_reject_fraction=0.3") == EXIT_DONE
    captured = capsys.readouterr()
    assert "3 rows name images that another row or a folder has too; each image is read once" in captured.out
    (manifest,) = manifests(workspace)
    assert manifest["repeats"] == 3
    found = predictions(workspace, manifest["run_id"])
    read = [f"lines/{name}" for name in [*lines[:11], lines[20]]] + [f"folder/{name}" for name in lines[11:14]]
    assert [row["uri"] for row in found] == sorted(f"{tmp_path}/{name}" for name in read)
    for row in found:
        status = os.stat(row["uri"])
        assert row["size_bytes"] == status.st_size
        assert abs(row["modified"].timestamp() - status.st_mtime) < 1e-5
    refused = rejects(workspace, manifest["run_id"])
    (tried,) = (row for row in refused if row[1] == "not_an_image")
    assert tried[0] == f"{tmp_path}/lines/00-11.txt"
    a_folder = "a folder: name the images in it, or give the folder itself"
    too_many = "it has 3 cells instead of 2: perhaps a path has a semicolon and is not quoted"
    assert [row for row in refused if row != tried] == [
        (f"{tmp_path}/lines", "unreadable", f"row 16 of {table} names 'lines', {a_folder}"),
        (
            f"{tmp_path}/lines/gone.png",
            "unreadable",
            f"row 15 of {table} names 'lines/gone.png': there is no such file",
        ),
        (str(table), "damaged_row", f"row 18 of {table}: no path"),
        (str(table), "damaged_row", f"row 19 of {table}: {too_many}"),
    ]
    assert manifest["rejects"] == {"damaged_row": 2, "not_an_image": 1, "unreadable": 2}
    # 18 + 2 rows and 3 images of the folder; 3 of the rows name what is there already.
    assert manifest["matched"] == manifest["rows"] + 5 == 18 + 2 + 3 - 3


def test_the_same_images_have_the_same_rows_through_their_folder_and_through_a_table(tmp_path, workspace, lines):
    table = tmp_path / "lists" / "night.tsv"
    table.parent.mkdir()
    names = [f"../lines/{name}" for name in lines]
    table.write_text("\n".join(["path", *names]))
    assert infer(workspace, str(table)) == EXIT_DONE
    (of_table,) = manifests(workspace)
    # Neither the order of the rows nor a repeat makes another run of it.
    random.Random(1).shuffle(names)
    table.write_text("\n".join(["path", *names, names[0]]))
    assert infer(workspace, str(table)) == EXIT_DONE
    assert manifests(workspace) == [of_table]

    assert infer(workspace, f"{tmp_path}/lines", "--reread") == EXIT_DONE
    (of_folder,) = (manifest for manifest in manifests(workspace) if manifest["run_id"] != of_table["run_id"])
    own = {"run_id", "scored_at"}
    read = [
        [{name: row[name] for name in row.keys() - own} for row in predictions(workspace, run["run_id"])]
        for run in (of_table, of_folder)
    ]
    assert read[0] == read[1]
    assert len(read[0]) == len(lines)


def test_a_change_of_an_image_makes_another_run(tmp_path, workspace, lines):
    table = tmp_path / "night.csv"
    table.write_text("\n".join(["path", *(f"lines/{name}" for name in lines[:2])]))
    assert infer(workspace, str(table)) == EXIT_DONE
    os.utime(tmp_path / "lines" / lines[0], (1, 1))
    assert infer(workspace, str(table)) == EXIT_DONE
    assert len(manifests(workspace)) == 2


def test_a_row_that_names_no_file_counts_towards_the_rejects_that_refuse_a_run(tmp_path, workspace, lines, capsys):
    table = tmp_path / "night.csv"
    table.write_text(f"path\nlines/{lines[0]}\ngone.png\n")
    assert infer(workspace, str(table)) == EXIT_REFUSED
    assert "1 of 2 images (50.0%) were rejected (1 unreadable)" in capsys.readouterr().err
    assert not manifests(workspace)


@pytest.mark.parametrize(
    ("content", "flags", "said"),
    [
        (None, [], "--infer_images: nothing matches '.*/night.csv'; give a folder, a file or a glob that exists"),
        ("", [], "the table .*/night.csv is empty: begin the table with a header line such as path"),
        ("path\n", [], "the table .*/night.csv has no rows: write a row for each image, or leave the table out"),
        (
            "scan,x\na,b\n",
            [],
            "night.csv has no path column: its first line has 'scan', 'x' and none of path, .* --path_column",
        ),
        (
            "path,x\na,b\n",
            ["--path_column=scan"],
            "--path_column=scan: .*/night.csv has no such column; its first line has 'path', 'x'",
        ),
        ("path\n\udce9.png\n", [], "line 2 of .*/night.csv is not UTF-8"),
    ],
)
def test_a_table_that_cannot_be_used_is_one_sentence_and_nothing_is_read(
    tmp_path, workspace, capsys, content, flags, said
):
    if content is not None:
        (tmp_path / "night.csv").write_bytes(content.encode(errors="surrogateescape"))
    assert infer(workspace, f"{tmp_path}/night.csv", *flags) == EXIT_REFUSED
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert re.search(said, line)
    assert not manifests(workspace)
    assert not list(workspace.glob("unfinished/listing-*"))


def test_the_names_of_a_table_and_its_folder_may_be_any_bytes(tmp_path, workspace, lines):
    folder = tmp_path / os.fsdecode(b"of \xe9 100%")
    shutil.copytree(tmp_path / "lines", folder / "lines")
    table = folder / os.fsdecode(b"night \xe9.csv")
    table.write_text("path\n" + "".join(f"lines/{name}\n" for name in [*lines, "gone.png"]))
    assert infer(workspace, f"{folder}/*.csv") == EXIT_DONE
    (manifest,) = manifests(workspace)
    uri = f"{tmp_path}/of %E9 100%25/lines"
    assert [row["uri"] for row in predictions(workspace, manifest["run_id"])] == [f"{uri}/{name}" for name in lines]
    ((gone, _, detail),) = rejects(workspace, manifest["run_id"])
    assert gone == f"{uri}/gone.png"
    assert "night \\xe9.csv names 'lines/gone.png': there is no such file" in detail
