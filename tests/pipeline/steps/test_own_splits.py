"""Collections with splits of their own, through the command: nothing of the test split is trained on."""

import shutil
from pathlib import Path

import pytest

from pipeline.exits import EXIT_DONE, EXIT_REFUSED
from tests.pipeline.steps.test_add_to import examples, ingest, latest
from tfrecords import SPLITS

SHARES = {"train": 14, "validation": 5, "test": 5}


@pytest.fixture
def workspace(tmp_path) -> Path:
    return tmp_path / "ws"


@pytest.fixture
def split_of(tiny_images) -> dict[str, str]:
    """A split for each of 24 lines, by the line's name."""
    lines = sorted(path.stem for path in tiny_images.glob("*.png"))
    splits = [split for split, count in SHARES.items() for _ in range(count)]
    return dict(zip(lines, splits, strict=True))


@pytest.fixture
def put_lines(tmp_path, tiny_images):
    """Writes lines with their text files to the folders that a function chooses; returns their root."""

    def put(folder_of) -> Path:
        for path in tiny_images.iterdir():
            folder = tmp_path / "lines" / folder_of(path.stem)
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, folder)
        return tmp_path / "lines"

    return put


def found(workspace: Path) -> dict[str, str]:
    """The split of every example, by its line's name."""
    by_split = examples(latest(workspace))
    return {Path(uri).stem: split for split in SPLITS for uri in by_split[split]}


def test_folders_are_honoured_by_default_and_mixed_when_asked_for(workspace, put_lines, split_of, capsys):
    names = {"train": "Training", "validation": "dev", "test": "eval"}
    images = put_lines(lambda line: f"pages/{names[split_of[line]]}")
    assert ingest(workspace, f"--images={images}") == EXIT_DONE
    said = capsys.readouterr().out
    assert "the folders pages/Training/, pages/dev/, pages/eval/ give the splits; --split_by=image mixes them" in said
    assert found(workspace) == split_of
    dataset = latest(workspace)
    assert ingest(workspace, f"--images={images}", "--split_by=given", "--test_fraction=0.2") == EXIT_DONE
    assert latest(workspace) == dataset, "the shares of a hash have nothing to say"
    assert ingest(workspace, f"--images={images}", "--split_by=image") == EXIT_DONE
    assert "give the splits" not in capsys.readouterr().out.partition("encoding")[2]
    assert found(workspace) != split_of


def test_validation_is_held_out_of_training_and_never_of_test(workspace, put_lines, split_of, capsys):
    images = put_lines(lambda line: "test" if split_of[line] == "test" else "train")
    assert ingest(workspace, f"--images={images}") == EXIT_DONE
    assert "gives no validation split: 30% of its images for training are held out" in capsys.readouterr().out
    mine = found(workspace)
    assert {line for line in mine if mine[line] == "test"} == {line for line in mine if split_of[line] == "test"}
    assert 1 <= list(mine.values()).count("validation") <= 12


def test_some_images_without_a_split_are_refused_by_default_and_rejects_when_asked_for(
    workspace, put_lines, split_of, capsys
):
    images = put_lines(lambda line: "" if line.startswith("00") else split_of[line])
    assert ingest(workspace, f"--images={images}") == EXIT_REFUSED
    said = capsys.readouterr()
    assert "gives splits, but none to 1 of 24 images, such as" in said.err + said.out
    assert "--split_by=given" in said.err + said.out
    assert ingest(workspace, f"--images={images}", "--split_by=given") == EXIT_DONE
    assert "1 rejected (1 no_split)" in capsys.readouterr().out


def put_table(path: Path, split_of: dict[str, str], column: str = "split") -> Path:
    rows = (f"{line}.png,{line.partition('-')[2]},{split}" for line, split in split_of.items())
    path.write_text("\n".join([f"path,text,{column}", *rows]))
    return path


def test_a_column_is_honoured_and_what_it_does_not_say_is_a_reject(workspace, put_lines, split_of, capsys):
    images = put_lines(lambda line: "")
    for text in images.glob("*.txt"):
        text.unlink()
    first, second, *_ = split_of
    table = put_table(images / "labels.csv", split_of)
    assert ingest(workspace, f"--images={images}") == EXIT_DONE
    assert f"the column 'split' of {table} gives the splits" in capsys.readouterr().out
    assert found(workspace) == split_of
    put_table(table, {**split_of, first: "", second: "extra"})
    assert ingest(workspace, f"--images={images}") == EXIT_REFUSED
    flags = (f"--images={images}", "--split_by=given", "--max_reject_fraction=0.1")
    assert ingest(workspace, *flags) == EXIT_DONE
    assert "2 rejected (2 no_split)" in capsys.readouterr().out
    assert found(workspace) == {line: split for line, split in split_of.items() if line not in (first, second)}


def test_a_folder_and_a_column_that_disagree_are_a_reject(workspace, put_lines, split_of, capsys):
    images = put_lines(lambda line: split_of[line])
    for text in images.rglob("*.txt"):
        text.unlink()
    first = next(iter(split_of))
    rows = {f"{split}/{line}": split for line, split in split_of.items()}
    rows[f"{split_of[first]}/{first}"] = "test"
    put_table(images / "labels.csv", rows)
    assert ingest(workspace, f"--images={images}", "--split_by=given") == EXIT_DONE
    assert "1 rejected (1 no_split)" in capsys.readouterr().out


def test_a_table_for_each_split_is_honoured(workspace, put_lines, split_of, capsys):
    images = put_lines(lambda line: "")
    for text in images.glob("*.txt"):
        text.unlink()
    for split in SPLITS:
        put_table(images / f"{split}_labels.csv", {line: "" for line in split_of if split_of[line] == split}, "page")
    assert ingest(workspace, f"--images={images}") == EXIT_DONE
    assert "give the splits; --split_by=image mixes them" in capsys.readouterr().out
    assert found(workspace) == split_of
    assert ingest(workspace, f"--images={images}", "--split_by=image") == EXIT_DONE
    assert found(workspace) != split_of


def test_tables_with_bare_names_that_each_folder_has_lead_to_the_folders_of_their_names(
    workspace, put_lines, split_of, capsys
):
    images = put_lines(lambda line: split_of[line])
    for text in images.rglob("*.txt"):
        text.unlink()
    for split in SPLITS:
        lines = sorted((images / split).iterdir())
        rows = [f"{number}.png,{line.stem.partition('-')[2]}" for number, line in enumerate(lines)]
        (images / f"{split}.csv").write_text("\n".join(["path,text", *rows]))
        for number, line in enumerate(lines):
            line.rename(images / split / f"{number}.png")
    assert ingest(workspace, f"--images={images}") == EXIT_DONE
    for split, some in examples(latest(workspace)).items():
        assert {uri: text for uri, (text, _, _) in some.items()} == {
            f"{images}/{split}/{number}.png": line.partition("-")[2]
            for number, line in enumerate(sorted(line for line in split_of if split_of[line] == split))
        }


def test_an_image_of_the_old_training_split_is_not_given_another_one_later(workspace, put_lines, split_of, capsys):
    images = put_lines(lambda line: split_of[line])
    assert ingest(workspace, f"--images={images}", "--split_by=image") == EXIT_DONE
    assert ingest(workspace, f"--images={images}", "--add_to=LATEST") == EXIT_REFUSED
    said = capsys.readouterr()
    assert "an image stays in its split" in said.err + said.out
    assert ingest(workspace, f"--images={images}") == EXIT_DONE
    assert ingest(workspace, f"--images={images}", "--add_to=LATEST") == EXIT_DONE
    assert found(workspace) == split_of
