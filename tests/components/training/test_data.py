"""Training input: what is loaded, in which order it comes, and how workers share it."""

from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import pytest

from components.training.data import (
    Examples,
    load_examples,
    make_ordered_batches,
    make_training_batches,
    shuffle_epoch,
)
from tests.written_examples import write_examples
from tfrecords import Charset, DataError, DatasetManifest, encode_png


@pytest.fixture(scope="module")
def examples(tiny_dataset) -> Examples:
    folder = str(tiny_dataset)
    return load_examples(folder, DatasetManifest.read(folder), "train")


def batches_of(examples: Examples, *, steps=None, replicas=range(1), parts=1, augment=False, batch_size=8):
    dataset = make_training_batches(
        examples,
        batch_size=batch_size,
        seed=5,
        steps=steps or range(-(-len(examples) // batch_size)),
        replicas=replicas,
        replica_batch_size=batch_size // parts,
        augment=augment,
    )
    return list(dataset.as_numpy_iterator())


def test_loaded_examples_are_what_the_images_and_labels_were(examples, tiny_dataset, tiny_images):
    charset = DatasetManifest.read(str(tiny_dataset)).read_charset(str(tiny_dataset))
    assert len(examples) == 16
    texts = examples.read_texts(range(16))
    for i, uri in enumerate(examples.read_uris(range(16))):
        name = uri.rpartition("/")[2]
        assert uri == str(tiny_images / name)
        assert texts[i] == name.removesuffix(".png").partition("-")[2]
        assert charset.decode(examples.get_label(i)) == texts[i]
        assert examples.label_lengths[i] == len(texts[i])
        assert examples.decode_line(i).shape == (32, examples.widths[i])


def test_an_empty_split_has_no_examples(tiny_dataset):
    folder = str(tiny_dataset)
    manifest = dataclasses.replace(DatasetManifest.read(folder), shards=())
    assert len(load_examples(folder, manifest, "train")) == 0


def test_a_missing_shard_is_refused_by_name(tiny_dataset, tmp_path):
    folder = shutil.copytree(tiny_dataset, tmp_path / "dataset")
    (folder / "train-00001-of-00002.tfrecord.gz").unlink()
    with pytest.raises(DataError, match=r"train-00001-of-00002\.tfrecord\.gz is missing.*run the ingest step again"):
        load_examples(str(folder), DatasetManifest.read(str(folder)), "train")


def test_a_damaged_shard_is_refused_by_name_and_checksum(tiny_dataset, tmp_path):
    folder = shutil.copytree(tiny_dataset, tmp_path / "dataset")
    path = folder / "train-00000-of-00002.tfrecord.gz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    manifest = DatasetManifest.read(str(folder))
    wanted = manifest.shards_of("train")[0].sha256[:12]
    with pytest.raises(DataError, match=rf"train-00000-of-00002\.tfrecord\.gz has checksum .*{wanted}.*: delete "):
        load_examples(str(folder), manifest, "train")


@pytest.mark.parametrize(("count", "batch_size"), [(64, 8), (61, 8), (5, 8), (1000, 8)])
def test_an_epoch_has_every_example_once_and_fills_the_last_batch(count, batch_size):
    order = shuffle_epoch(np.random.default_rng(0).integers(10, 500, count), batch_size, seed=1, epoch=0)
    assert order.shape == (-(-count // batch_size), batch_size)
    assert order.dtype == np.int32
    times = np.bincount(order.ravel(), minlength=count)
    assert times.min() == 1
    assert times.max() <= -(-batch_size // count) + 1
    assert times.sum() == order.size


def test_order_follows_from_seed_and_epoch_alone():
    widths = np.random.default_rng(0).integers(10, 500, 100)
    order = shuffle_epoch(widths, 8, seed=1, epoch=3)
    np.testing.assert_array_equal(order, shuffle_epoch(widths, 8, seed=1, epoch=3))
    assert (order != shuffle_epoch(widths, 8, seed=1, epoch=4)).any()
    assert (order != shuffle_epoch(widths, 8, seed=2, epoch=3)).any()


def test_lines_of_like_width_go_together_and_batches_come_in_no_order_of_width():
    widths = np.random.default_rng(0).integers(10, 500, 256)
    in_batches = widths[shuffle_epoch(widths, 8, seed=1, epoch=0)]
    assert np.ptp(in_batches, axis=1).mean() < 0.1 * np.ptp(widths)
    means = in_batches.mean(axis=1)
    assert (np.diff(means) > 0).any()
    assert (np.diff(means) < 0).any()


def test_batches_hold_the_true_pixels_labels_and_lengths_padded_with_white(examples):
    batches, texts = batches_of(examples), examples.read_texts(range(16))
    assert sorted(np.concatenate([batch["indices"] for batch in batches])) == list(range(16))
    for batch in batches:
        assert batch["images"].dtype == np.uint8
        assert batch["images"].shape[2] % 4 == 0
        for row, i in enumerate(batch["indices"]):
            width, length = batch["widths"][row], batch["label_lengths"][row]
            assert width == examples.widths[i]
            np.testing.assert_array_equal(batch["images"][row, :, :width, 0], examples.decode_line(i))
            assert (batch["images"][row, :, width:] == 255).all()
            assert length == len(texts[i])
            np.testing.assert_array_equal(batch["labels"][row, :length], examples.get_label(i))


def test_epochs_come_one_after_the_other_each_in_its_own_order(examples):
    both = [batch["indices"].tolist() for batch in batches_of(examples, steps=range(4))]
    assert both == shuffle_epoch(examples.widths, 8, 5, 0).tolist() + shuffle_epoch(examples.widths, 8, 5, 1).tolist()


@pytest.mark.parametrize("first", range(6))
def test_batches_from_any_step_on_are_those_of_a_training_from_the_first(first, examples):
    whole = batches_of(examples, steps=range(6), augment=True)
    later = batches_of(examples, steps=range(first, 6), augment=True)
    assert len(later) == 6 - first
    for batch, wanted in zip(later, whole[first:], strict=True):
        for name in wanted:
            np.testing.assert_array_equal(batch[name], wanted[name])


@pytest.mark.parametrize("augment", [False, True])
def test_slices_of_workers_put_together_are_the_batch_of_one_worker(examples, augment):
    """Pixels, distorted or not, labels and lengths: training must not depend on how many workers share it."""
    whole = batches_of(examples, augment=augment)
    workers = [batches_of(examples, augment=augment, replicas=range(i, i + 1), parts=2) for i in range(2)]
    assert len(workers[0]) == len(workers[1]) == len(whole) == 2
    for batch, *slices in zip(whole, *workers, strict=True):
        for name in ("indices", "widths", "label_lengths"):
            np.testing.assert_array_equal(np.concatenate([part[name] for part in slices]), batch[name])
        rows = [(part, row) for part in slices for row in range(4)]
        for row, (part, part_row) in enumerate(rows):
            length, width = batch["label_lengths"][row], batch["widths"][row]
            np.testing.assert_array_equal(part["labels"][part_row, :length], batch["labels"][row, :length])
            np.testing.assert_array_equal(part["images"][part_row, :, :width], batch["images"][row, :, :width])


def test_slices_of_workers_are_padded_as_the_batch_of_one_worker(examples):
    """Batch normalisation takes its statistics over padding too: other padding, other training."""
    whole = batches_of(examples)
    for worker in range(2):
        parts = batches_of(examples, replicas=range(worker, worker + 1), parts=2)
        assert [part["images"].shape[2] for part in parts] == [batch["images"].shape[2] for batch in whole]


def test_a_worker_with_two_replicas_gets_their_slices_in_turn(examples):
    one_each = [batches_of(examples, replicas=range(i, i + 1), parts=4) for i in (2, 3)]
    both = batches_of(examples, replicas=range(2, 4), parts=4)
    wanted = [batch["indices"].tolist() for pair in zip(*one_each, strict=True) for batch in pair]
    assert [batch["indices"].tolist() for batch in both] == wanted


def test_the_same_seed_gives_the_same_distorted_pixels_and_another_epoch_others(examples):
    first, again = (batches_of(examples, augment=True)[0] for _ in range(2))
    np.testing.assert_array_equal(first["images"], again["images"])
    plain = batches_of(examples)[0]
    np.testing.assert_array_equal(first["indices"], plain["indices"])
    assert (first["images"] != plain["images"]).any(axis=(1, 2, 3)).all()
    order = shuffle_epoch(examples.widths, 8, 5, 0).ravel().tolist()
    later = batches_of(examples, augment=True, steps=range(2, 4))[0]
    row, i = 0, later["indices"][0]
    place = order.index(i)
    earlier = batches_of(examples, augment=True)[place // 8]
    width = examples.widths[i]
    assert (earlier["images"][place % 8, :, :width] != later["images"][row, :, :width]).any()


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_reading_batches_cover_each_example_once_over_all_parts(examples, parts):
    seen = []
    for part in range(parts):
        for images, widths, indices in make_ordered_batches(examples, 3, part, parts):
            assert len(indices) <= 3
            for image, width, i in zip(images, widths, indices, strict=True):
                assert width == examples.widths[i]
                np.testing.assert_array_equal(image[:, :width, 0], examples.decode_line(i))
                assert (image[:, width:] == 255).all()
            assert np.ptp(widths) < np.ptp(examples.widths) or len(examples) <= 3
            seen += indices.tolist()
    assert sorted(seen) == list(range(16))


@pytest.mark.parametrize("parts", [1, 3])
def test_lines_that_are_very_wide_are_read_in_smaller_batches(parts, tmp_path):
    """A batch of 64 lines of 20,000 pixels would take gigabytes in the first layers."""
    chooser = np.random.default_rng(0)
    widths = np.concatenate([chooser.integers(20, 200, 100), [2048] * 70, [20_000] * 3, [140_000]]).astype(np.int32)
    png = {width: encode_png(np.full((1, width), 255, np.uint8)) for width in set(widths.tolist())}
    count = len(widths)
    images = [png[width] for width in widths.tolist()]
    examples = write_examples(tmp_path, Charset(("a",)), images, widths.tolist(), ["a"] * count)
    seen = []
    for part in range(parts):
        for images, own_widths, indices in make_ordered_batches(examples, 64, part, parts):
            assert images.shape[0] == 1 or images.shape[0] * own_widths.max() <= 64 * 2048
            seen.append(indices.tolist())
    assert sorted(i for batch in seen for i in batch) == list(range(count))
    assert sorted(map(len, seen)) == [1, 3, 42, 64, 64]
