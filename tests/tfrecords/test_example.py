"""Serialised examples, read back by TensorFlow and by tfx-bsl."""

import pathlib
import subprocess
import sys

import pytest
import tensorflow as tf

from tfrecords import LineExample, encode_example, examples_to_record_batch, read_labels, write_records

ROOT = pathlib.Path(__file__).parents[2]

EXAMPLES = {
    "plain": LineExample(b"\x89PNG\r\n", 93, (0, 1, 2), "abc", "lines/1.png"),
    "no symbols": LineExample(b"\x00", 1, (), "", "x"),
    "wide": LineExample(b"\x00" * 300, 20_000, (5,), "f", "scans/" + "a" * 200),
    "two-byte ids": LineExample(b"i", 128, (0, 127, 128, 16_383, 16_384, 1_114_111), "x" * 6, "u"),
    "long label": LineExample(b"i", 127, tuple(range(200)), "y" * 200, "u"),
    "largest": LineExample(b"i", 2**63 - 1, (2**63 - 1,), "z", "u"),
    "not ascii": LineExample(b"\xff\xfe", 32, (1, 1), "שלום é 日本", "gs://bucket/日本 %25.png"),
}


@pytest.mark.parametrize("example", EXAMPLES.values(), ids=EXAMPLES.keys())
def test_tensorflow_reads_exactly_the_values_that_were_written(example):
    parsed = tf.train.Example.FromString(encode_example(example))
    feature = parsed.features.feature
    assert set(feature) == {"image", "width", "label", "label_length", "text", "uri"}
    assert list(feature["image"].bytes_list.value) == [example.image]
    assert list(feature["width"].int64_list.value) == [example.width]
    assert list(feature["label"].int64_list.value) == list(example.label)
    assert list(feature["label_length"].int64_list.value) == [len(example.label)]
    assert list(feature["text"].bytes_list.value) == [example.text.encode()]
    assert list(feature["uri"].bytes_list.value) == [example.uri.encode()]
    assert feature["label"].WhichOneof("kind") == "int64_list"


def test_tensorflow_parses_it_with_the_documented_types():
    spec = {
        "image": tf.io.FixedLenFeature([], tf.string),
        "width": tf.io.FixedLenFeature([], tf.int64),
        "label": tf.io.VarLenFeature(tf.int64),
        "label_length": tf.io.FixedLenFeature([], tf.int64),
        "text": tf.io.FixedLenFeature([], tf.string),
        "uri": tf.io.FixedLenFeature([], tf.string),
    }
    parsed = tf.io.parse_example([encode_example(example) for example in EXAMPLES.values()], spec)
    assert parsed["width"].numpy().tolist() == [example.width for example in EXAMPLES.values()]
    labels = tf.RaggedTensor.from_sparse(parsed["label"]).to_list()
    assert labels == [list(example.label) for example in EXAMPLES.values()]


def test_equal_examples_give_equal_bytes_and_unequal_ones_do_not():
    encoded = [encode_example(example) for example in EXAMPLES.values()]
    again = [encode_example(LineExample(**vars(example))) for example in EXAMPLES.values()]
    assert encoded == again
    assert len(set(encoded)) == len(EXAMPLES)


def test_the_bytes_are_pinned_so_that_the_format_never_changes_silently():
    assert encode_example(LineExample(b"I", 300, (2, 200), "ab", "u")).hex() == (
        "0a680a0e0a05696d61676512050a030a01490a100a056c6162656c12071a050a0302c801"
        "0a150a0c6c6162656c5f6c656e67746812051a030a01020a0e0a047465787412060a040a026162"
        "0a0c0a0375726912050a030a01750a0f0a05776964746812061a040a02ac02"
    )


@pytest.mark.parametrize("example", [LineExample(b"", -1, (), "", ""), LineExample(b"", 1, (3, -2), "", "")])
def test_a_negative_number_is_refused_and_named(example):
    with pytest.raises(ValueError, match=r"never negative, but one is -[12]"):
        encode_example(example)


def test_tfx_bsl_reads_the_same_values_as_arrow():
    batch = examples_to_record_batch([encode_example(example) for example in EXAMPLES.values()])
    assert sorted(batch.schema.names) == ["image", "label", "label_length", "text", "uri", "width"]
    for row, example in zip(batch.to_pylist(), EXAMPLES.values(), strict=True):
        assert row == {
            "image": [example.image],
            "label": list(example.label),
            "label_length": [example.label_length],
            "text": [example.text.encode()],
            "uri": [example.uri.encode()],
            "width": [example.width],
        }


def test_arrow_reads_what_tensorflow_wrote():
    features = {
        "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"i"])),
        "width": tf.train.Feature(int64_list=tf.train.Int64List(value=[70])),
        "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[300, 1])),
        "label_length": tf.train.Feature(int64_list=tf.train.Int64List(value=[2])),
        "text": tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"ab"])),
        "uri": tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"u"])),
    }
    serialized = tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()
    (row,) = examples_to_record_batch([serialized]).to_pylist()
    assert (row["label"], row["width"], row["text"]) == ([300, 1], [70], [b"ab"])


def test_uris_and_labels_are_read_together_many_at_a_time(tmp_path):
    path = str(tmp_path / "train-00000-of-00001.tfrecord.gz")
    lines = [LineExample(b"png", 8, (0,), text, f"/in/{text}.png") for text in ("a", "", "é")]
    write_records(path, map(encode_example, lines))
    blocks = [(uris.to_pylist(), texts.to_pylist()) for uris, texts in read_labels(path, 2)]
    assert blocks == [(["/in/a.png", "/in/.png"], ["a", ""]), (["/in/é.png"], ["é"])]


def test_bytes_that_are_no_example_are_refused():
    with pytest.raises(ValueError, match=r"not a serialised tf\.train\.Example"):
        examples_to_record_batch([encode_example(EXAMPLES["plain"]), b"\xff\xff\xff"])


def test_bytes_that_were_refused_leave_nothing_for_the_next_batch():
    with pytest.raises(ValueError, match="not a serialised"):
        examples_to_record_batch([encode_example(EXAMPLES["plain"]), b"\xff\xff\xff"])
    wanted = EXAMPLES["plain"]
    (row,) = examples_to_record_batch([encode_example(wanted)]).to_pylist()
    assert (row["image"], row["uri"]) == ([wanted.image], [wanted.uri.encode()])


def modules_after(statement: str) -> set[str]:
    """The top-level modules that a fresh interpreter has loaded after a statement."""
    code = f"{statement}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_the_data_contract_loads_no_heavy_library():
    loaded = modules_after("import tfrecords")
    assert "tfrecords" in loaded
    assert loaded.isdisjoint({"tensorflow", "keras", "apache_beam", "tfx_bsl", "matplotlib", "gcsfs", "fsspec"})


def test_importing_what_an_ingest_worker_runs_loads_no_training_stack():
    loaded = modules_after("import components.ingest.transforms, components.listing.transforms")
    assert "apache_beam" in loaded
    assert loaded.isdisjoint({"tensorflow", "keras", "tfx_bsl", "matplotlib", "gcsfs", "onnxruntime"})
