"""The splits that a collection brings, found in names and columns on a real disk and in an in-memory file system."""

import pathlib

import pytest

from components.listing import LabelRules, TableColumns, choose_splits, hold_out, read_listing, write_listing
from components.listing.roots import Places
from components.listing.split_names import find_table_splits, name_split
from tests.components.listing.files import put, put_remote
from tests.components.listing.test_choice import put_table
from tfrecords import DataError, SplitFractions

NAMES = {
    "train": ("train", "Training", "TRAIN", "train_set", "trainset", "train2017", "images-train", "rec_gt_train"),
    "validation": ("val", "valid", "Validation", "dev", "val_lines"),
    "test": ("test", "testing", "eval", "Evaluation", "test.v2"),
    None: ("", "lines", "trains", "latest", "trainer", "device", "value", "train_val", "train-test", "2017"),
}


@pytest.mark.parametrize(("split", "name"), [(split, name) for split, names in NAMES.items() for name in names])
def test_a_name_tells_a_split_by_one_word_of_its_own(split, name):
    assert name_split(name) == split


def test_tables_tell_splits_only_if_each_of_them_does_and_together_they_divide_a_collection():
    assert find_table_splits(["/d/train.csv", "/d/gt_test.tsv"]) == ["train", "test"]
    assert find_table_splits(["gs://b/test/train.csv", "gs://b/test/val.csv"]) == ["train", "validation"]
    assert find_table_splits(["/d/train.csv", "/d/labels.csv"]) == [None, None]
    assert find_table_splits(["/d/val.csv", "/d/test.csv"]) == [None, None]
    assert find_table_splits([]) == []


def list_splits(*roots: pathlib.Path | str, **rules) -> dict[str, str | None]:
    """The split that each image is given, or the reason why it has none, by its name."""
    rules = {"source": "filename", **rules}
    places = Places.from_roots(list(map(str, roots)))
    folder = pathlib.Path(roots[0] if "://" not in str(roots[0]) else "/tmp").parent
    found = {}
    for number, root in enumerate(map(str, roots)):
        path = str(folder / f".{number}.parquet") if "://" not in root else f"memory://listings/{number}.parquet"
        write_listing([root], path, LabelRules(**rules, split_by="given"), SplitFractions(0, 0), places)
        for image in read_listing(path):
            found[image.uri.rpartition("/")[2]] = image.split or image.problem
    return found


def choose(*roots: pathlib.Path | str, split_by: str = "auto", **rules) -> tuple[str, str | None, str]:
    """The rule that is chosen, the column, and what is said."""
    column = None if split_by in ("auto", "given", "image", "folder") else split_by
    asked = LabelRules(
        **{"source": "filename", **rules, "split_by": split_by, "columns": TableColumns(group=column)}  # type: ignore[arg-type]
    )
    found, why = choose_splits(asked, list(map(str, roots)))
    return found.split_by, found.columns.group, why


def test_folders_give_the_splits_at_the_root_or_one_below_whatever_the_synonym(images):
    put(images, "train/a.png", "Valid/deep/er/b.png", "pages/TESTING/c.png", "train/pages/d.png")
    assert choose(images) == (
        "given",
        None,
        "the folders train/, Valid/, pages/TESTING/ give the splits; --split_by=image mixes them",
    )
    assert list_splits(images) == {"a.png": "train", "b.png": "validation", "c.png": "test", "d.png": "train"}


def test_an_image_outside_of_them_or_in_folders_of_two_splits_is_a_reject(images):
    put(images, "train/a.png", "test/b.png", "c.png", "more/d.png", "train/test/e.png", "x/y/train/f.png")
    assert list_splits(images) == {
        "a.png": "train",
        "b.png": "test",
        **dict.fromkeys(("c.png", "d.png", "e.png", "f.png"), "no_split"),
    }


def test_several_roots_tell_their_splits_and_a_single_one_does_not(tmp_path):
    put(tmp_path, "test/a/train/images/1.png", "test/a/val/images/2.png")
    roots = [tmp_path / "test/a" / name / "images" for name in ("train", "val")]
    assert choose(*roots)[0] == "given"
    assert list_splits(*roots) == {"1.png": "train", "2.png": "validation"}
    assert list_splits(tmp_path / "test/a") == {"1.png": "train", "2.png": "validation"}
    assert choose(tmp_path / "test/a/train") == ("image", None, "")


def test_single_files_of_several_folders_have_their_folders_splits(tmp_path):
    put(tmp_path, "train/1.png", "test/2.png")
    roots = sorted(tmp_path.glob("*/*.png"))
    assert choose(*roots)[0] == "given"
    assert list_splits(*roots) == {"1.png": "train", "2.png": "test"}


@pytest.mark.parametrize("names", [("a.png", "lines/b.png"), ("train/a.png",), ("val/a.png", "test/b.png"), ()])
def test_a_collection_that_is_not_divided_is_split_as_ever(images, names):
    images.mkdir(exist_ok=True)
    put(images, *names, ".train/x.png", ".test/x.png")
    assert choose(images) == ("image", None, "")


@pytest.mark.parametrize("split_by", ["image", "folder"])
def test_another_rule_that_was_named_is_not_questioned(images, split_by):
    put(images, "train/a.png", "test/b.png")
    assert choose(images, split_by=split_by) == (split_by, None, "")


def test_splits_that_are_asked_for_have_to_be_there(images):
    put(images, "a.png")
    with pytest.raises(DataError, match=r"^--split_by=given: no folder of the images is named train, val, test"):
        choose(images, split_by="given")
    put(images, "train/b.png")
    assert choose(images, split_by="given") == ("given", None, "the folders train/ give the splits")


def test_folders_in_an_object_store_give_the_splits_too(bucket):
    put_remote(f"{bucket}/lines", "train/a.png", "sub/test/b.png", "test_1.png")
    assert choose(f"{bucket}/lines")[0] == "given"
    assert list_splits(f"{bucket}/lines") == {"a.png": "train", "b.png": "test", "test_1.png": "no_split"}


def put_columns(path: pathlib.Path, header: str, *rows: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{row}\n" for row in (header, *rows)))
    return str(path)


def test_a_column_gives_the_splits_if_its_values_do(tmp_path):
    table = put_columns(tmp_path / "labels.csv", "path,text,Subset", "a.png,A,Train", "b.png,B,TEST", "c.png,C,other")
    why = f"the column 'subset' of {table} gives the splits"
    mixes = "; --split_by=image mixes them"
    assert choose(source="table", tables=(table,)) == ("given", "subset", why + mixes)
    assert choose(source="table", tables=(table,), split_by="given") == ("given", "subset", why)
    assert choose(source="table", tables=(table,), split_by="image") == ("image", None, "")
    assert choose(source="table", tables=(table,), split_by="Subset") == ("Subset", "Subset", "")


def test_a_column_that_is_named_and_holds_nothing_but_splits_gives_them(tmp_path):
    table = put_columns(tmp_path / "labels.csv", "path,text,part", "a.png,A,train", "b.png,B,val")
    said = f"the column 'part' of {table} gives the splits"
    assert choose(source="table", tables=(table,), split_by="part") == ("given", "part", said)


def test_a_column_of_folds_or_of_one_value_gives_none(tmp_path):
    folds = put_columns(tmp_path / "folds.csv", "path,text,fold,set", "a.png,A,1,train", "b.png,B,2,train")
    assert choose(source="table", tables=(folds,)) == ("image", None, "")


def test_two_columns_of_splits_are_refused(tmp_path):
    table = put_columns(tmp_path / "labels.csv", "path,text,split,set", "a.png,A,train,test", "b.png,B,test,train")
    with pytest.raises(DataError, match=r"several columns that could hold the splits, 'split' and 'set'"):
        choose(source="table", tables=(table,))


def test_names_of_tables_give_the_splits(tmp_path):
    tables = tuple(put_table(tmp_path / f"{name}.csv", f"{name}.png") for name in ("test", "train", "val"))
    assert choose(source="table", tables=tables) == (
        "given",
        None,
        f"the names of {' and '.join(tables)} give the splits; --split_by=image mixes them",
    )


def test_a_review_table_never_gives_splits(tmp_path):
    table = put_columns(
        tmp_path / "review.csv", "path,text,dataset,model_id,run_id,split", "a.png,A,d,m,r,train", "b.png,B,d,m,r,test"
    )
    assert choose(source="table", tables=(table,)) == ("image", None, "")


def test_what_the_collection_lacks_is_held_out_of_its_training_images():
    fractions, counts, said = hold_out({"train": 100, "test": 7}, SplitFractions(0.1, 0.2))
    assert (fractions, counts) == (SplitFractions(0.1, 0), {"train": 90, "validation": 10, "test": 7})
    assert list(said) == [
        "the collection gives no validation split: 10% of its images for training are held out for it"
    ]
    fractions, counts, said = hold_out({"train": 100, "validation": 7}, SplitFractions(0.1, 0.2))
    assert (fractions, counts) == (SplitFractions(0, 0.2), {"train": 80, "validation": 7, "test": 20})
    assert hold_out({"train": 1, "validation": 1, "test": 1}, SplitFractions())[0] == SplitFractions(0, 0)


def test_a_collection_without_training_images_is_refused():
    with pytest.raises(DataError, match=r"no image for training"):
        hold_out({"test": 3, "validation": 2}, SplitFractions())


def test_a_column_of_splits_needs_no_name(tmp_path):
    table = tmp_path / "labels.csv"
    table.write_text("a.png,first,train\nb.png,second,test\nc.png,third,train\n")
    rules = LabelRules("table", tables=(str(table),), split_by="auto")
    found, why = choose_splits(rules, [str(tmp_path)])
    assert (found.split_by, found.columns.group) == ("given", "split")
    assert why.startswith(f"the column 'split' of {table} gives the splits")
