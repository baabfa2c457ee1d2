"""Collections in archives, by the command itself: from archives to datasets, predictions and rejects."""

import json
import os
import pathlib
import shutil

import duckdb
import pytest

from components.recogniser import load_recogniser
from pipeline.exits import EXIT_DONE, EXIT_REFUSED, EXIT_USAGE
from tests.commands import make_workspace, run_command
from tests.components.archives.packing import KINDS, put_archive
from tests.results import read_dataset


@pytest.fixture
def workspace(tmp_path, tiny_model) -> pathlib.Path:
    return make_workspace(tmp_path / "ws", tiny_model, model_id="first")


@pytest.fixture
def files(tiny_images) -> dict[str, bytes]:
    """24 images by name, each with its label in a text file beside it."""
    return {path.name: path.read_bytes() for path in sorted(tiny_images.iterdir())}


def infer(workspace: pathlib.Path, images: object, *flags: str) -> int:
    return run_command(workspace, "--steps=infer", f"--infer_images={images}", *flags)


def rows(workspace: pathlib.Path, what: str = "predictions") -> list[tuple]:
    """The name, and the text or the reason, of every row, sorted; the same name twice is twice."""
    found = list(workspace.glob(f"{what}/**/*.parquet"))
    column = "text" if what == "predictions" else "reason"
    if not found:
        return []
    table = f"select uri, {column} from read_parquet({list(map(str, found))}, hive_partitioning=false)"
    return sorted((uri.rpartition("/")[2], value) for uri, value in duckdb.sql(table).fetchall())


def images_of(files: dict[str, bytes]) -> dict[str, bytes]:
    return {name: content for name, content in files.items() if name.endswith(".png")}


def test_a_night_reads_archives_of_every_kind_as_it_reads_their_files(tmp_path, workspace, files, tiny_images):
    images = images_of(files)
    parts = [dict(list(images.items())[number::6]) for number in range(6)]
    for kind, part in zip(KINDS, parts, strict=False):
        put_archive(tmp_path / "in" / "sub", kind, {f"scans/{name}": content for name, content in part.items()})
    for name, content in parts[5].items():
        (tmp_path / "in" / name).write_bytes(content)
    assert infer(workspace, tmp_path / "in") == EXIT_DONE
    plain = make_workspace(tmp_path / "plain", workspace / "models" / "first", model_id="first")
    assert infer(plain, tiny_images) == EXIT_DONE
    assert len(rows(workspace)) == len(images)
    assert rows(workspace) == rows(plain)


def test_the_next_night_opens_no_archive_that_did_not_change_and_reads_the_new_one(tmp_path, workspace, files, capsys):
    images = images_of(files)
    first = put_archive(tmp_path / "in", "a.tar", dict(list(images.items())[:10]))
    assert infer(workspace, tmp_path / "in") == EXIT_DONE
    status = os.stat(first)
    with open(first, "r+b") as file:
        file.write(bytes(status.st_size))  # whoever opened it would find no member
    os.utime(first, ns=(status.st_atime_ns, status.st_mtime_ns))
    put_archive(tmp_path / "in", "a.zip", dict(list(images.items())[10:]))
    capsys.readouterr()
    assert infer(workspace, tmp_path / "in") == EXIT_DONE
    assert "matched=24 skipped=10" in capsys.readouterr().out
    assert len(rows(workspace)) == len(images)
    assert infer(workspace, f"{tmp_path}/in/*") == EXIT_DONE
    assert "nothing new" in capsys.readouterr().out


def test_every_member_is_read_or_rejected_once(tmp_path, workspace, files):
    names = sorted(images_of(files))
    packed = {name: files[name] for name in names[:8]}
    packed |= {
        "note.png": b"no image",
        "cut.png": files[names[8]][:60],
        "in.zip": b"x",
        "empty.png": b"",
        "1.json": b"{}",
    }
    path = put_archive(tmp_path, "a.tar", {**packed, "../out.png": files[names[9]], "z.png": bytes(99_999)})
    os.truncate(path, os.path.getsize(path) - 50_000)
    assert infer(workspace, path, "--max_reject_fraction=0.9") == EXIT_DONE
    assert [name for name, _ in rows(workspace)] == names[:8]
    assert rows(workspace, "rejects") == [
        ("a.tar", "damaged_archive"),
        ("cut.png", "truncated"),
        ("empty.png", "empty_file"),
        ("in.zip", "unusable_member"),
        ("note.png", "not_an_image"),
        ("out.png", "unusable_member"),
        ("z.png", "unusable_member"),
    ]
    (manifest,) = workspace.glob("predictions/*/*/_manifest.json")
    counts = json.loads(manifest.read_text())
    assert (counts["matched"], counts["rows"], sum(counts["rejects"].values())) == (15, 8, 7)


@pytest.mark.parametrize("kind", ["a.tar", "a.tar.gz", "a.zip"])
def test_an_ingested_archive_gives_the_examples_of_its_files(tmp_path, files, kind, tiny_images):
    def examples(workspace: pathlib.Path) -> list[tuple[str, str, bytes]]:
        _, lines = read_dataset(workspace)
        return sorted((text, uri.rpartition("/")[2], pixels.tobytes()) for uri, (text, pixels) in lines.items())

    put_archive(tmp_path / "in", kind, files)
    packed, plain = tmp_path / "packed", tmp_path / "plain"
    flags = ["--steps=ingest", "--label_source=sidecar", "--validation_fraction=0", "--test_fraction=0"]
    assert run_command(packed, *flags, f"--images={tmp_path}/in/{kind}") == EXIT_DONE
    assert run_command(plain, *flags, f"--images={tiny_images}") == EXIT_DONE
    assert examples(packed) == examples(plain)


def test_auto_finds_the_text_files_in_an_archive(tmp_path, files, capsys):
    path = put_archive(tmp_path / "in", "a.tar", files)
    assert run_command(tmp_path / "ws", "--steps=ingest", f"--images={path}") == EXIT_DONE
    assert "labels come from the text file beside each image" in capsys.readouterr().out


def test_an_empty_archive_is_refused_with_its_name(tmp_path, workspace, capsys):
    path = put_archive(tmp_path, "a.zip", {})
    assert infer(workspace, path) == EXIT_REFUSED
    assert f"there is not one image in {path}" in capsys.readouterr().err


def test_a_member_is_recognised_by_its_path_from_python(tmp_path, workspace, files):
    name = sorted(images_of(files))[0]
    (tmp_path / name).write_bytes(files[name])
    recogniser = load_recogniser(str(workspace))
    for kind in KINDS:
        path = put_archive(tmp_path, kind, files)
        packed, plain = recogniser.recognise([f"{path}!/{name}", f"{tmp_path}/{name}"])
        assert packed == plain


def test_the_report_shows_members_that_were_rejected(tmp_path, workspace, files):
    path = put_archive(tmp_path, "a.tar.gz", {**images_of(files), "grey.png": files[sorted(files)[0]][:200]})
    assert infer(workspace, path) == EXIT_DONE
    (report,) = workspace.glob("runs/*.html")
    page = report.read_text()
    assert "a.tar.gz!/grey.png" in page
    assert "the file is gone" not in page
    assert page.count("data:image/") >= 2
    shutil.rmtree(workspace)


def labelled(files: dict[str, bytes], folder: str = "") -> tuple[dict[str, bytes], str]:
    """The images in a folder under names that are no labels, and the rows of a table that labels them."""
    images, table = {}, ["path,text"]
    for number, name in enumerate(sorted(images_of(files))):
        path = f"{folder}scan_{number:04d}.png"
        images[path] = files[name]
        table.append(f"{path},{files[name.replace('.png', '.txt')].decode().strip()}")
    return images, "\n".join(table)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("flags", [[], ["--label_source={}!/labels.csv"]], ids=["auto", "named"])
def test_a_table_in_an_archive_labels_its_members(tmp_path, files, kind, flags, capsys):
    images, table = labelled(files, "images/")
    path = put_archive(tmp_path / "in", kind, {**images, "labels.csv": table.encode()})
    asked = [flag.format(path) for flag in flags]
    assert run_command(tmp_path / "ws", "--steps=ingest", f"--images={path}", *asked) == EXIT_DONE
    out = capsys.readouterr().out
    assert "24 rows lead to an image" in out
    assert "24 images matched, 24 written" in out


def test_a_table_in_an_archive_names_the_collection_by_itself(tmp_path, files, capsys):
    images, table = labelled(files, "images/")
    path = put_archive(tmp_path / "in", "a.zip", {**images, "labels.csv": table.encode()})
    assert run_command(tmp_path / "ws", "--steps=ingest", f"--label_source={path}!/labels.csv") == EXIT_DONE
    assert "24 images matched, 24 written" in capsys.readouterr().out


@pytest.mark.parametrize("root", ["in", "in/a.tar"])
def test_a_table_beside_an_archive_labels_its_members(tmp_path, files, root, capsys):
    images, table = labelled(files)
    put_archive(tmp_path / "in", "a.tar", images)
    (tmp_path / "in" / "labels.csv").write_text(table)
    assert run_command(tmp_path / "ws", "--steps=ingest", f"--images={tmp_path}/{root}") == EXIT_DONE
    assert "24 images matched, 24 written" in capsys.readouterr().out


def test_a_table_that_is_not_in_the_archive_is_refused(tmp_path, files, capsys):
    path = put_archive(tmp_path / "in", "a.tar", images_of(files))
    assert run_command(tmp_path / "ws", "--steps=ingest", f"--label_source={path}!/labels.csv") == EXIT_USAGE
    assert f"there is no file {path}!/labels.csv" in capsys.readouterr().err


def test_a_row_does_not_lead_into_an_archive_of_a_closed_folder(tmp_path, workspace, files):
    put_archive(workspace / "models", "a.zip", images_of(files))
    (tmp_path / "a.zip").symlink_to(workspace / "models" / "a.zip")
    name = sorted(images_of(files))[0]
    (tmp_path / "night.csv").write_text(f"path\na.zip!/{name}\n{workspace}/models/a.zip!/{name}\n")
    assert infer(workspace, f"{tmp_path}/night.csv", "--max_reject_fraction=1") == EXIT_DONE
    assert [reason for _, reason in rows(workspace, "rejects")] == ["unreadable"] * 2
    assert rows(workspace) == []


def test_a_table_of_paths_names_members(tmp_path, workspace, files):
    path = put_archive(tmp_path, "a.zip", images_of(files))
    names = sorted(images_of(files))[:5]
    (tmp_path / "night.csv").write_text("path\n" + "".join(f"a.zip!/{name}\n" for name in [*names, "gone.png"]))
    assert infer(workspace, f"{tmp_path}/night.csv", "--max_reject_fraction=0.5") == EXIT_DONE
    assert [name for name, _ in rows(workspace)] == names
    assert rows(workspace, "rejects") == [("gone.png", "unreadable")]
    assert infer(workspace, path) == EXIT_DONE
    assert len(rows(workspace)) == 24  # the five are those of the table


@pytest.mark.parametrize("images", ["in", "in/*.tar"])
def test_archives_that_are_named_like_splits_give_them(tmp_path, files, images, capsys):
    names = sorted(images_of(files))
    for split, some in (("train", names[:14]), ("val", names[14:18]), ("test", names[18:])):
        texts = [name.replace(".png", ".txt") for name in some]
        put_archive(tmp_path / "in", f"{split}.tar", {name: files[name] for name in [*some, *texts]})
    assert run_command(tmp_path / "ws", "--steps=ingest", f"--images={tmp_path}/{images}") == EXIT_DONE
    assert "24 written (14 train, 4 validation, 6 test)" in capsys.readouterr().out
