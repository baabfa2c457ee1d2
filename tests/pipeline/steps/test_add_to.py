"""Images added to a committed dataset, by the command itself: every image of both once, in the split it had."""

import json
import shutil
from pathlib import Path

import pyarrow.parquet
import pytest
from PIL import Image

from components.ingest import dataset as ingest_dataset
from pipeline.exits import EXIT_DONE, EXIT_REFUSED
from pipeline.main import main
from tests.components.ingest.written import parse_shard
from tfrecords import SPLITS, Charset, DatasetManifest

SHARES = ("--validation_fraction=0.3", "--test_fraction=0.3")


@pytest.fixture
def workspace(tmp_path) -> Path:
    return tmp_path / "ws"


@pytest.fixture
def old_images(tmp_path, tiny_images) -> Path:
    """Sixteen lines, each with its label in a text file beside it."""
    folder = tmp_path / "old"
    folder.mkdir()
    for path in sorted(tiny_images.iterdir())[:32]:
        shutil.copy2(path, folder)
    return folder


@pytest.fixture
def new_images(tmp_path, tiny_images) -> Path:
    """Eight other lines, one of them with a symbol that the old ones lack."""
    folder = tmp_path / "new"
    folder.mkdir()
    for path in sorted(tiny_images.iterdir())[32:]:
        shutil.copy2(path, folder)
    (folder / "16-1a.txt").write_text("1Zé")
    return folder


def ingest(workspace: Path, *flags: object) -> int:
    return main([f"--workspace={workspace}", "--steps=ingest", "--height=32", *SHARES, *map(str, flags)])


def latest(workspace: Path) -> Path:
    return workspace / "datasets" / (workspace / "datasets" / "LATEST").read_text().strip()


def examples(folder: Path) -> dict[str, dict[str, tuple[str, bytes, tuple[int, ...]]]]:
    """Text, image and label of every example by its URI, by split; each URI is there once."""
    manifest = DatasetManifest.read(str(folder))
    found: dict[str, dict[str, tuple[str, bytes, tuple[int, ...]]]] = {split: {} for split in SPLITS}
    seen = set()
    for shard in manifest.shards:
        records = parse_shard(folder / shard.name)
        assert len(records) == shard.examples
        for record in records:
            assert record["uri"] not in seen
            seen.add(record["uri"])
            found[shard.split][record["uri"]] = record["text"], record["image"], tuple(record["label"])
    assert len(seen) == manifest.matched - sum(manifest.rejects.values())
    return found


def test_old_examples_stay_where_they_were_though_their_files_are_gone(
    workspace, old_images, new_images, capsys, tmp_path
):
    assert ingest(workspace, f"--images={old_images}") == EXIT_DONE
    old = latest(workspace)
    before = examples(old)
    assert all(before.values())
    shutil.rmtree(old_images)
    capsys.readouterr()
    assert ingest(workspace, f"--images={new_images}", "--add_to=LATEST") == EXIT_DONE
    said = capsys.readouterr().out
    assert f"adding the images to the 16 examples of dataset {old.name}, as --add_to=LATEST says" in said
    assert "24 images matched, 24 written" in said
    assert f"16 of the 16 examples of dataset {old.name} are among them" in said

    new = latest(workspace)
    after, manifest = examples(new), DatasetManifest.read(str(new))
    charset = manifest.read_charset(str(new))
    assert {*charset.symbols} == {*"0123abcZé"}
    for split in SPLITS:
        for uri, (text, image, label) in after[split].items():
            assert label == tuple(charset.encode(text))
            if uri in before[split]:
                assert (text, image) == before[split][uri][:2]
        assert before[split].keys() <= after[split].keys()
    added = {uri for split in SPLITS for uri in after[split].keys() - before[split].keys()}
    assert added == {str(path) for path in new_images.glob("*.png")}
    assert (manifest.matched, manifest.kept, manifest.added_to) == (24, 16, old.name)
    statistics = json.loads((new / "statistics.json").read_text())
    assert (statistics["matched"], statistics["kept"], statistics["added_to"]) == (24, 16, old.name)
    assert sum(split["examples"] for split in statistics["splits"].values()) == 24


def test_an_image_in_both_gets_the_new_label_and_picture_and_stays_in_its_split(workspace, old_images, new_images):
    assert ingest(workspace, f"--images={old_images}") == EXIT_DONE
    before = examples(latest(workspace))
    corrected = {min(before[split]) for split in SPLITS}
    changed = min(before["test"])
    Image.new("L", (90, 30), 128).save(changed)
    table = tmp_table(new_images.parent / "labels.csv", [(uri, "3210") for uri in corrected])
    for path in new_images.glob("*.png"):
        with open(table, "a") as file:
            file.write(f"{path},2222\n")
    images = ",".join([*sorted(corrected), str(new_images)])
    assert ingest(workspace, f"--images={images}", f"--label_source={table}", "--add_to=LATEST") == EXIT_DONE
    after, manifest = examples(latest(workspace)), DatasetManifest.read(str(latest(workspace)))
    for split in SPLITS:
        for uri in before[split]:
            assert after[split][uri][0] == ("3210" if uri in corrected else before[split][uri][0])
            assert (after[split][uri][1] != before[split][uri][1]) == (uri == changed)
    assert (manifest.matched, manifest.kept) == (24, 13)


def tmp_table(path: Path, rows: list[tuple[str, str]]) -> Path:
    path.write_text("path,text\n" + "".join(f"{uri},{text}\n" for uri, text in rows))
    return path


def test_a_new_image_that_is_rejected_takes_the_place_of_its_old_example(workspace, old_images, new_images):
    assert ingest(workspace, f"--images={old_images}") == EXIT_DONE
    before = examples(latest(workspace))
    bad = min(before["train"])
    rows = [(str(path), "11") for path in sorted(new_images.glob("*.png"))]
    table = tmp_table(new_images.parent / "labels.csv", [(bad, "1" * 499), *rows])
    flags = (f"--images={bad},{new_images}", f"--label_source={table}", "--add_to=LATEST")
    assert ingest(workspace, *flags) == EXIT_REFUSED  # one of nine, of which 5 % may be
    assert ingest(workspace, *flags, "--max_reject_fraction=0.2") == EXIT_DONE
    folder = latest(workspace)
    manifest, after = DatasetManifest.read(str(folder)), examples(folder)
    assert bad not in after["train"]
    assert (manifest.matched, manifest.kept, manifest.rejects) == (24, 15, {"label_too_long": 1})
    (rejects,) = folder.glob("rejects-train-*.parquet")
    assert pyarrow.parquet.read_table(rejects)["uri"].to_pylist() == [bad]
    assert ingest(workspace, *flags, "--add_to=" + str(manifest.added_to)) == EXIT_REFUSED


def test_the_bytes_are_the_same_with_any_workers_and_in_the_second_attempt(
    workspace, old_images, new_images, tmp_path, monkeypatch
):
    assert ingest(workspace, f"--images={old_images}") == EXIT_DONE
    other = shutil.copytree(workspace, tmp_path / "other")
    flags = (f"--images={new_images}", "--add_to=LATEST")
    assert ingest(workspace, *flags) == EXIT_DONE
    contents = {path.name: path.read_bytes() for path in latest(workspace).glob("*.tfrecord.gz")}

    copied = []
    copy = ingest_dataset.copy_examples

    def copy_examples(entry, *rest):
        copied.append(entry.split)
        if entry.split == "validation" and copied.count("validation") == 1:
            raise OSError("the disk is gone")
        return copy(entry, *rest)

    monkeypatch.setattr(ingest_dataset, "copy_examples", copy_examples)
    workers = ("--direct_num_workers=1", "--direct_running_mode=in_memory")
    assert ingest(other, *flags, *workers) == EXIT_REFUSED
    assert ingest(other, *flags, *workers) == EXIT_DONE
    assert latest(other).name == latest(workspace).name
    assert {path.name: path.read_bytes() for path in latest(other).glob("*.tfrecord.gz")} == contents
    assert copied.count("validation") == 2


def test_the_same_request_finds_its_dataset(workspace, old_images, new_images, capsys):
    assert ingest(workspace, f"--images={old_images}") == EXIT_DONE
    old = latest(workspace)
    flags = (f"--images={new_images}", f"--add_to={old.name}")
    assert ingest(workspace, *flags) == EXIT_DONE
    new = latest(workspace)
    assert new != old
    capsys.readouterr()
    assert ingest(workspace, *flags) == EXIT_DONE
    said = capsys.readouterr().out
    assert "it was there already" in said
    assert f"warning: the latest dataset is {new.name}" not in said  # --add_to says which one
    assert latest(workspace) == new
    assert ingest(workspace, f"--images={new_images}") == EXIT_DONE
    assert latest(workspace) not in (old, new)


def test_new_images_of_an_old_group_go_to_its_split_and_the_groups_are_counted_together(
    workspace, tiny_images, tmp_path, capsys
):
    lines = sorted(path.with_suffix("") for path in tiny_images.glob("*.png"))
    for number, line in enumerate(lines):
        folder = tmp_path / ("first" if number < 16 else "second") / "books" / "abcdefgh"[number % 8]
        folder.mkdir(parents=True, exist_ok=True)
        for suffix in (".png", ".txt"):
            shutil.copy2(f"{line}{suffix}", folder)
    assert ingest(workspace, f"--images={tmp_path}/first/books", "--split_by=folder") == EXIT_DONE
    capsys.readouterr()
    flags = (f"--images={tmp_path}/second/books", "--add_to=LATEST")
    assert ingest(workspace, *flags, "--split_by=folder") == EXIT_DONE
    assert "may come to lie in different splits" not in capsys.readouterr().out
    statistics = json.loads((latest(workspace) / "statistics.json").read_text())
    assert statistics["split_by"] == "folder"
    counts = [statistics["splits"][split]["largest_groups"] for split in SPLITS]
    assert {group: count for some in counts for group, count in some.items()} == {f"books/{g}": 3 for g in "abcdefgh"}
    assert sum(map(len, counts)) == 8
    for split, some in zip(SPLITS, counts, strict=True):
        assert statistics["splits"][split]["examples"] == 3 * len(some)
    assert ingest(workspace, *flags) == EXIT_DONE
    assert "is split by folder, the new images by image: lines that are alike may come" in capsys.readouterr().out
    assert json.loads((latest(workspace) / "statistics.json").read_text())["split_by"] == "folder"


def test_a_given_charset_has_to_have_the_old_symbols(workspace, old_images, new_images, tmp_path, capsys):
    assert ingest(workspace, f"--images={old_images}") == EXIT_DONE
    charset = tmp_path / "charset.txt"
    flags = (f"--images={new_images}", "--add_to=LATEST", f"--charset={charset}", "--max_reject_fraction=0.2")
    charset.write_text(Charset.from_texts(["0123ab"]).to_file_text())
    assert ingest(workspace, *flags) == EXIT_REFUSED
    assert "lacks symbols of the dataset to which the images are added ('c')" in capsys.readouterr().err
    charset.write_text(Charset.from_texts(["0123abcx"]).to_file_text())
    assert ingest(workspace, *flags) == EXIT_DONE
    manifest = DatasetManifest.read(str(latest(workspace)))
    assert manifest.read_charset(str(latest(workspace))).symbols == tuple("0123abcx")
    assert (manifest.matched, manifest.kept, manifest.rejects) == (24, 16, {"symbol_not_in_charset": 1})


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--add_to=nothing"], "--add_to=nothing: there is no dataset nothing in"),
        (["--add_to=LATEST", "--height=48"], "are 32 pixels high, not 48: ingest with --height=32"),
    ],
)
def test_what_nothing_can_be_added_to_is_one_sentence(flags, sentence, workspace, old_images, new_images, capsys):
    assert ingest(workspace, f"--images={old_images}") == EXIT_DONE
    assert ingest(workspace, f"--images={new_images}", *flags) == EXIT_REFUSED
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1


def test_without_a_dataset_nothing_can_be_added_to_the_latest(workspace, new_images, capsys):
    assert ingest(workspace, f"--images={new_images}", "--add_to=LATEST") == EXIT_REFUSED
    assert "no dataset is committed" in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["cut", "removed", "flipped"])
def test_a_damaged_dataset_is_added_to_by_nobody(damage, workspace, old_images, new_images, capsys):
    assert ingest(workspace, f"--images={old_images}") == EXIT_DONE
    shard = next(latest(workspace).glob("train-*"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content[:-5] if damage == "cut" else content)
    if damage == "removed":
        shard.unlink()
    assert ingest(workspace, f"--images={new_images}", "--add_to=LATEST") == EXIT_REFUSED
    said = capsys.readouterr().err
    assert str(shard) in said
    assert said.count("\n") == 1
    assert len(list((workspace / "datasets").glob("*/manifest.json"))) == 1
