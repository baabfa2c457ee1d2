"""Workspaces and images in an object store: real HTTP to an emulator of GCS in another process."""

from __future__ import annotations

import collections
import shutil
import threading
from pathlib import Path

import pyarrow.parquet
import pytest

from components.listing import choice
from components.listing.choice import choose_labels
from components.listing.labels import LabelRules
from components.listing.own_splits import choose_splits
from components.listing.path_tables import list_table
from components.recogniser.manifest import ModelManifest
from pipeline.exits import EXIT_DONE, EXIT_REFUSED
from pipeline.main import main
from tests.components.archives.packing import pack
from tests.components.archives.tables import make_table
from tests.conftest import LABELS
from tests.engines.places import errors, examples, predictions, run
from tfrecords import DataError, DatasetManifest, StoreError, storage

pytestmark = pytest.mark.slow


@pytest.fixture
def local(tmp_path: Path, tiny_images: Path, tiny_model: Path) -> str:
    """The same in local folders."""
    shutil.copytree(tiny_images, tmp_path / "lines")
    shutil.copytree(tiny_model, tmp_path / "ws" / "models" / "first")
    for pointer in ("LATEST", "ACCEPTED"):
        (tmp_path / "ws" / "models" / pointer).write_text("first\n")
    return str(tmp_path)


def test_files_are_written_listed_read_and_removed(bucket, object_store):
    path = f"{bucket}/folder/x"
    storage.write_bytes(path, b"content")
    assert object_store.objects(bucket) == {"folder/x": b"content"}
    assert storage.list_names(f"{bucket}/folder") == ["x"]
    assert storage.read_bytes(path) == b"content"
    storage.remove_folder(f"{bucket}/folder")
    assert object_store.objects(bucket) == {}


def test_folders_are_listed_at_the_same_time_and_in_order(bucket, object_store, proxy):
    inside = [f"scans/{folder:02d}/{number}.png" for folder in range(12) for number in range(3)]
    names = sorted(["scans.png", "z.png", "deep/a/b/c.png", "deep//odd.png", "/odd.png", *inside])
    for name in names:
        object_store.put(f"{bucket}/in/{name}", b"x")
    assert [file.url for file in storage.find_files(f"{bucket}/in")] == [f"{bucket}/in/{name}" for name in names]

    together = threading.Barrier(12)
    held = []

    def hold(request):
        if request.kind == "list" and request.name.removeprefix("in/scans/"):
            held.append(together.wait(timeout=30))

    proxy.fault = hold
    found = [file.url for file in storage.find_files(f"{bucket}/in/scans")]
    assert found == [f"{bucket}/in/{name}" for name in inside]
    assert len(held) == 12


@pytest.mark.parametrize(
    "pattern",
    ["in/*", "in/*/*.png", "in/s*/0[12]", "in/s*/0[12]/?.png", "in/scans.pn?", "in/*/none", "in/*/a", "in/**/*.png"],
)
def test_patterns_match_what_fsspec_has_them_match(bucket, object_store, pattern):
    for name in ("scans.png", "z.png", "deep/a/b/c.png", "deep/a.png", "scans/01/1.png", "scans/02/2.png", "scans/x/1"):
        object_store.put(f"{bucket}/in/{name}", b"x")
    fs = storage.open_filesystem(bucket)
    assert storage.glob(f"{bucket}/{pattern}") == sorted(f"gs://{found}" for found in fs.glob(f"{bucket}/{pattern}"))


def test_a_pattern_of_folders_does_not_list_what_is_in_them(bucket, object_store, proxy):
    for name in ("2025/a/1.png", "2025/a/2.png", "2026/b/1.png", "2026/b/2.png"):
        object_store.put(f"{bucket}/scans/{name}", b"x")
    assert storage.glob(f"{bucket}/scans/*/*") == [f"{bucket}/scans/2025/a", f"{bucket}/scans/2026/b"]
    assert proxy.counts() == {"list": 3}


def test_all_steps_give_what_they_give_in_local_folders(store, local, capsys):
    said = {}
    for place in (local, store):
        statuses = [run(place, steps) for steps in ("ingest", "infer", "evaluate")]
        evaluation = storage.read_json(f"{place}/ws/models/first/evaluation.json")
        said[place] = [*statuses, evaluation["cer"], evaluation["exact_match"], evaluation["intervals"]]
    assert said[store] == said[local]
    assert said[store][:2] == [EXIT_DONE, EXIT_DONE]
    assert examples(store) == examples(local)
    assert len(examples(store)) == 24
    assert predictions(store) == predictions(local)
    assert len(predictions(store)) == 24
    assert "Traceback" not in capsys.readouterr().err


def test_folders_named_like_splits_are_found_with_few_requests(bucket, object_store, proxy):
    for name in ("lines/train/a.png", "lines/val/b.png", "lines/x.png", "lines/more/c.png", "deep/images/test/d.png"):
        object_store.put(f"{bucket}/{name}", b"x")
    object_store.put(f"{bucket}/deep/images/train/e.png", b"x")
    assert storage.list_folders(f"{bucket}/lines") == ["more", "train", "val"]
    assert storage.list_folders(f"{bucket}/none") == []
    for folder, least in (("lines", 1), ("deep", 2)):
        proxy.requests.clear()
        rules, why = choose_splits(LabelRules("sidecar", split_by="auto"), [f"{bucket}/{folder}"])
        assert rules.split_by == "given"
        assert "give the splits; --split_by=image mixes them" in why
        assert least <= proxy.counts()["list"] <= least + 2


def test_the_next_night_reads_what_is_new_or_was_written_again(store, object_store, tiny_images, capsys):
    first, second, *_ = sorted(tiny_images.glob("*.png"))
    for name, said in (
        (None, "24 images matched, 24 read"),
        ("new.png", "25 images matched, 24 skipped as read before, 1 read"),
        (second.name, "25 images matched, 24 skipped as read before, 1 read"),  # of as many bytes: the generation tells
        (None, "nothing new: 25 images matched"),
    ):
        if name is not None:
            content = second.read_bytes() if name == second.name else first.read_bytes()
            object_store.put(f"{store}/lines/{name}", content)
        assert run(store, "infer") == EXIT_DONE, capsys.readouterr()
        assert said in capsys.readouterr().out
    assert storage.list_names(f"{store}/ws/unfinished") == []


def test_the_workspace_does_not_change_a_byte_of_a_dataset(store, tmp_path):
    images = [f"--images={store}/lines", "--label_source=sidecar", "--height=32", "--steps=ingest"]
    shards = []
    for workspace in (f"{tmp_path}/ws", f"{store}/ws"):
        assert main([f"--workspace={workspace}", *images]) == EXIT_DONE
        dataset_id = storage.read_bytes(f"{workspace}/datasets/LATEST").decode().strip()
        shards.append(DatasetManifest.read(f"{workspace}/datasets/{dataset_id}").shards)
        assert storage.list_names(f"{workspace}/unfinished") == []
    assert shards[0] == shards[1] != ()


def test_each_image_and_each_label_costs_one_request(store, object_store, proxy, tiny_images):
    for folder in ("a", "b/c"):
        for path in tiny_images.iterdir():
            object_store.put(f"{store}/lines/{folder}/{path.name}", path.read_bytes())
    shown = 50  # by the run report
    for step, reads, most in (("ingest", 2 * 72, 80), ("infer", 72 + shown, 70)):
        proxy.requests.clear()
        assert run(store, step) == EXIT_DONE
        of_images = collections.Counter(each.kind for each in proxy.requests if each.name.startswith("lines"))
        listings = of_images.pop("list")
        # Whether it is a folder, and what is in it and in its two: folders that are named like splits, perhaps.
        of_splits = 4 if step == "ingest" else 0
        assert listings <= 3 + 2 + of_splits  # the folder, and those in it that are listed beside it
        assert of_images == {"information": 1, "read": reads}
        assert len(proxy.requests) - of_images.total() - listings <= most
        proxy.requests.clear()
        assert run(store, step) == EXIT_DONE
        labels_and_shown = 72 if step == "ingest" else shown
        assert proxy.counts()["read"] <= labels_and_shown + 15
        assert len(proxy.requests) <= labels_and_shown + 40


def test_a_part_of_an_object_is_read_by_one_request(bucket, object_store, proxy):
    object_store.put(f"{bucket}/x", bytes(range(256)))
    assert storage.read_range(f"{bucket}/x", 10, 5) == bytes(range(10, 15))
    assert storage.read_range(f"{bucket}/x", 250, 50) == bytes(range(250, 256))
    assert [each.kind for each in proxy.requests] == ["read"] * 2


@pytest.mark.parametrize("kind", ["a.tar", "a.zip", "a.tar.gz"])
def test_the_images_of_an_archive_cost_few_requests(store, object_store, proxy, tiny_images, kind):
    files = {f"{n:02d}/{path.name}": path.read_bytes() for n in range(30) for path in sorted(tiny_images.iterdir())}
    object_store.put(f"{store}/lines/{kind}", pack(kind, files))
    proxy.requests.clear()
    assert run(store, "ingest") == EXIT_DONE  # 720 images, each with its label in a text file beside it
    of_archive = [each for each in proxy.requests if each.name == f"lines/{kind}"]
    assert len(of_archive) <= 15
    proxy.requests.clear()
    assert run(store, "infer") == EXIT_DONE
    shown = 50  # by the run report; each is looked for in the archive that is there then
    assert len([each for each in proxy.requests if each.name == f"lines/{kind}"]) <= 4 + 4 * shown
    proxy.requests.clear()
    assert run(store, "infer") == EXIT_DONE
    assert [each.kind for each in proxy.requests if each.name == f"lines/{kind}"] == []
    assert len(predictions(store)) == 720 + len(list(tiny_images.glob("*.png")))


@pytest.mark.parametrize("kind", ["a.parquet", "a.arrow", "a.tfrecord", "a.tfrecord.gz"])
def test_the_rows_of_a_table_cost_few_requests(store, object_store, proxy, tiny_images, kind):
    rows = [(path.read_bytes(), path.stem) for _ in range(30) for path in sorted(tiny_images.glob("*.png"))]
    table = f"{store}/tables/{kind}"
    object_store.put(table, make_table(kind, rows))
    proxy.requests.clear()
    assert run(store, "ingest", f"--images={table}") == EXIT_DONE
    assert len([each for each in proxy.requests if each.name == f"tables/{kind}"]) <= 40
    proxy.requests.clear()
    assert run(store, "infer", f"--infer_images={table}") == EXIT_DONE
    shown = 50  # by the run report; each is looked for in the table that is there then
    assert len([each for each in proxy.requests if each.name == f"tables/{kind}"]) <= 20 + 8 * shown
    proxy.requests.clear()
    assert run(store, "infer", f"--infer_images={table}") == EXIT_DONE
    assert {each.kind for each in proxy.requests if each.name == f"tables/{kind}"} == {"information"}
    assert len(predictions(store)) == len(rows)


@pytest.mark.parametrize(("suffix", "number"), [(".txt", 8), (".png", 3)])  # there are few images in a shard
def test_labels_and_images_are_read_at_the_same_time(store, proxy, suffix, number):
    """The first requests are answered once so many of them have come."""
    waiting, missed, enough, turn = [], [], threading.Event(), threading.Lock()

    def wait(request):
        if request.kind != "read" or not request.name.startswith("lines/") or not request.name.endswith(suffix):
            return
        with turn:
            if enough.is_set() or missed:
                return
            waiting.append(request)
            if len(waiting) == number:
                enough.set()
        if not enough.wait(20):
            missed.append(request)

    proxy.fault = wait
    assert run(store, "ingest") == EXIT_DONE
    assert enough.is_set()
    assert missed == []


def test_the_search_for_tables_does_not_list_the_images_again(store, object_store, proxy, monkeypatch):
    """What a table names is asked for by itself, and no more of it than images are looked at."""
    monkeypatch.setattr(choice, "_IMAGES_LOOKED_AT", 20)
    rules, rows = LabelRules(source="auto"), [f"lines/no-{row}.png,1\n" for row in range(90)]

    def requests(table):
        object_store.put(f"{store}/{table}", f"path,text\n{''.join(rows)}".encode())
        proxy.requests.clear()
        choose_labels(rules, [f"{store}/lines"])
        return proxy.counts()

    without = requests("rows.txt")
    with_one = requests("labels.csv")
    assert with_one["list"] == without["list"]
    assert 10 <= with_one["information"] - without.get("information", 0) <= 20
    rows += [f"lines/{row:02d}-{label}.png,1\n" for row, label in enumerate(LABELS)]
    with pytest.raises(DataError, match=r"labels\.csv"):  # now it is one of two places
        requests("labels.csv")
    assert proxy.counts()["list"] <= without["list"]


def test_tables_a_charset_a_lexicon_and_a_configuration_may_lie_in_an_object_store(store, object_store, capsys):
    names = sorted(name for name in storage.list_names(f"{store}/lines") if name.endswith(".png"))
    labels = [name[3:-4] for name in names]
    rows = "".join(f"lines/{name},{label}\n" for name, label in zip(names, labels, strict=True))
    object_store.put(f"{store}/labels.csv", f"path,text\n{rows}lines/gone.png,1\n".encode())
    object_store.put(f"{store}/charset.txt", "".join(f"{symbol}\n" for symbol in sorted(set("".join(labels)))).encode())
    object_store.put(f"{store}/words.txt", "".join(f"{label}\n" for label in labels).encode())
    object_store.put(f"{store}/flags.yaml", f"height: 32\nworkspace: {store}/ws\n".encode())
    config = f"--config={store}/flags.yaml"
    sources = [f"--images={store}/lines", f"--label_source={store}/labels.csv", f"--charset={store}/charset.txt"]
    assert main([config, "--steps=ingest", *sources]) == EXIT_DONE, capsys.readouterr()
    assert "24 images matched, 24 written" in (said := capsys.readouterr().out)
    assert "1 label without an image" in said
    lexicon = ["--decoder=lexicon", f"--lexicon={store}/words.txt"]
    for images in (f"{store}/labels.csv", "dataset:LATEST:train"):
        assert main([config, "--steps=infer", f"--infer_images={images}", "--max_reject_fraction=0.1", *lexicon]) == 0
    folder = f"{store}/ws/predictions"
    files = [file.url for file in storage.find_files(folder) if file.url.endswith(".parquet")]
    texts = [row["text"] for url in files for row in pyarrow.parquet.read_table(storage.open_to_read(url)).to_pylist()]
    assert len(texts) > 24
    assert set(texts) <= set(labels)
    assert "24 read with mean confidence" in capsys.readouterr().out


def test_a_dataset_trains_a_model_from_the_weights_of_another(store, proxy, capsys):
    flags = ["--epochs=1", "--max_cer=1", "--patience=1", f"--init_from={store}/ws/models/first"]
    assert run(store, "ingest") == EXIT_DONE
    assert run(store, "train", *flags) == EXIT_DONE, capsys.readouterr()
    model_id = storage.read_bytes(f"{store}/ws/models/LATEST").decode().strip()
    manifest = ModelManifest.read(f"{store}/ws/models/{model_id}")
    assert manifest.options["init_from"] == "tinymodel000"
    sizes = {name: described["bytes"] for name, described in manifest.files.items()}
    assert storage.find_missing_or_changed(f"{store}/ws/models/{model_id}", sizes) is None
    shards = [each.name for each in proxy.requests if each.kind == "read" and each.name.endswith("tfrecord.gz")]
    assert max(collections.Counter(shards).values()) <= 4  # described twice, sampled, copied to train on
    assert storage.list_names(f"{store}/ws/unfinished") == []
    capsys.readouterr()
    assert run(store, "train", *flags) == EXIT_DONE
    assert "it was there already" in capsys.readouterr().out


def test_the_accepted_model_teaches_another_in_a_bucket(store, tiny_dataset, capsys):
    storage.copy_folder(str(tiny_dataset), f"{store}/ws/datasets/tinydataset0")
    storage.write_bytes(f"{store}/ws/datasets/LATEST", b"tinydataset0\n")
    assert run(store, "infer") == EXIT_DONE
    flags = ["--epochs=1", "--selftrain_rounds=1"]
    assert run(store, "selftrain", *flags) == EXIT_DONE, capsys.readouterr()
    model_id = storage.read_bytes(f"{store}/ws/models/LATEST").decode().strip()
    manifest = ModelManifest.read(f"{store}/ws/models/{model_id}")
    assert {"model.keras", "model.onnx", "taught_labels.parquet"} <= set(manifest.files)
    sizes = {name: described["bytes"] for name, described in manifest.files.items()}
    assert storage.find_missing_or_changed(f"{store}/ws/models/{model_id}", sizes) is None
    assert storage.list_names(f"{store}/ws/unfinished") == []
    capsys.readouterr()
    assert run(store, "selftrain", *flags) == EXIT_DONE
    assert "it was there already" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["model.onnx", "model.keras"])
def test_a_model_that_was_tampered_with_is_not_loaded(store, object_store, name, capsys):
    content = bytearray(object_store.get(f"{store}/ws/models/first/{name}"))
    content[len(content) // 2] ^= 1
    object_store.put(f"{store}/ws/models/first/{name}", bytes(content))
    if name == "model.onnx":
        assert run(store, "infer", "--engine=onnx") == EXIT_REFUSED
    else:
        assert run(store, "ingest") == EXIT_DONE
        assert run(store, "train", "--epochs=1", f"--init_from={store}/ws/models/first") == EXIT_REFUSED
    (error,) = errors(capsys)
    assert f"{store}/ws/models/first/{name} has checksum" in error
    assert "it was damaged or replaced" in error


def test_a_shard_that_was_tampered_with_is_not_trained_on(store, object_store, capsys):
    assert run(store, "ingest") == EXIT_DONE
    (shard,) = [name for name in object_store.objects(f"{store}/ws/datasets") if "train-" in name]
    content = bytearray(object_store.get(f"{store}/{shard}"))
    content[len(content) // 2] ^= 1
    object_store.put(f"{store}/{shard}", bytes(content))
    assert run(store, "train", "--epochs=1") == EXIT_REFUSED
    (error,) = errors(capsys)
    assert error.startswith(f"error: {store}/{shard} has checksum ")
    assert "and run the ingest step again" in error


def test_what_is_reviewed_goes_from_a_bucket_into_a_dataset_there(store, tiny_dataset, capsys):
    storage.copy_folder(str(tiny_dataset), f"{store}/ws/datasets/tinydataset0")
    storage.write_bytes(f"{store}/ws/datasets/LATEST", b"tinydataset0\n")
    command = [f"--workspace={store}/ws", "--height=32"]
    assert main([*command, "--steps=infer,review", f"--infer_images={store}/lines", "--review_count=5"]) == EXIT_DONE
    (review,) = storage.list_names(f"{store}/ws/review")
    table = f"{store}/ws/review/{review}/review.csv"
    assert storage.read_bytes(table).count(f'"{store}/lines/'.encode()) == 5
    assert main([*command, "--steps=ingest", f"--label_source={table}"]) == EXIT_DONE, capsys.readouterr()
    dataset_id = storage.read_bytes(f"{store}/ws/datasets/LATEST").decode().strip()
    manifest = DatasetManifest.read(f"{store}/ws/datasets/{dataset_id}")
    assert (manifest.matched, manifest.kept, manifest.added_to) == (29, 24, "tinydataset0")
    assert manifest.examples("train") >= 16


def test_a_row_of_a_store_that_refuses_is_a_reject_and_a_table_of_such_rows_ends_the_listing(
    tmp_path, object_store, proxy, bucket
):
    """A table is data of others: one row must not end every night."""
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(b"image")
    (tmp_path / "night.csv").write_text(f"path\n0.png\n{bucket}/a.png\n1.png\n{bucket}/b.png\n2.png\n")
    proxy.fault = lambda request: 401
    listed = list(list_table(str(tmp_path / "night.csv")))
    assert [Path(reference.uri).name for reference in listed] == ["0.png", "a.png", "1.png", "b.png", "2.png"]
    assert [reference.problem for reference in listed] == [None, "unreadable", None, "unreadable", None]
    assert "is refused to these credentials" in listed[1].detail
    assert len(proxy.requests) == 1
    (tmp_path / "night.csv").write_text(f"path\n0.png\n{bucket}/a.png\n{bucket}/b.png\n")
    with pytest.raises(StoreError, match="is refused to these credentials"):
        list(list_table(str(tmp_path / "night.csv")))
