"""An object store that is slow, refuses, breaks off, lies or is silent, by a proxy in front of a real one."""

from __future__ import annotations

import asyncio
import collections
import concurrent.futures
import contextlib
import gzip
import hashlib
import http.server
import io
import itertools
import json
import os
import threading
import time
import tracemalloc
import types
from pathlib import Path

import gcsfs.retry
import pyarrow.parquet
import pytest

from pipeline.exits import EXIT_AGAIN, EXIT_DONE, EXIT_REFUSED
from pipeline.main import main
from tests.commands import run_python
from tests.engines.conftest import put_model
from tests.engines.places import errors, examples, predictions, run
from tests.engines.services import forget_file_systems, free_port, token_server, write_credentials
from tfrecords import DataError, StoreError, storage
from tfrecords.storage import gcs_writer
from tfrecords.storage import object_store as objects

pytestmark = pytest.mark.slow

PAUSES_S = 37  # the longest pauses between six tries, together
GENEROUS_S = 30  # for a command that is refused at once


@pytest.fixture
def hurried(monkeypatch):
    """Pauses before a request is made again that are a hundredth as long."""
    sleep = asyncio.sleep
    monkeypatch.setattr(gcsfs.retry, "asyncio", types.SimpleNamespace(sleep=lambda seconds: sleep(seconds / 100)))
    monkeypatch.setattr(gcs_writer, "FIRST_PAUSE_S", 0.01)


def digests(place: str) -> dict[str, str]:
    dataset_id = storage.read_bytes(f"{place}/ws/datasets/LATEST").decode().strip()
    names = [name for name in storage.list_names(f"{place}/ws/datasets/{dataset_id}") if "tfrecord" in name]
    return {name: storage.compute_checksum(f"{place}/ws/datasets/{dataset_id}/{name}") for name in names}


def test_bursts_of_every_fault_in_every_kind_of_request_change_nothing(
    store, object_store, proxy, hurried, tiny_model, capsys
):
    for step in ("ingest", "infer"):
        assert run(store, step) == EXIT_DONE
    undisturbed = digests(store), predictions(store)
    storage.remove_folder(f"{store}/ws")
    put_model(object_store, store, tiny_model)
    # Each object's first requests meet two faults in a row; which two, goes round within each kind of request.
    pairs = list(itertools.permutations([429, 503, 500, "reset", "cut", 408, 502], 2))
    numbers: dict[str, itertools.count] = collections.defaultdict(itertools.count)
    left: dict[tuple[str, str], list] = {}
    met = collections.Counter()

    def fault(request):
        key = request.kind, request.name
        if key not in left:
            left[key] = list(pairs[(7 * next(numbers[request.kind])) % len(pairs)])
        chosen = left[key].pop() if left[key] else None
        met[request.kind] += chosen is not None
        return chosen

    proxy.fault = fault
    for step in ("ingest", "infer"):
        assert run(store, step) == EXIT_DONE, capsys.readouterr()
    assert all(met[kind] >= 10 for kind in ("list", "read", "information", "write", "copy", "delete")), met
    assert len(undisturbed[1]) == 24
    assert (digests(store), predictions(store)) == undisturbed
    assert errors(capsys) == []


@pytest.mark.parametrize("fault", ["cut", "flip"])
def test_an_image_that_never_arrives_whole_is_left_out_and_tried_again_by_the_next_run(
    store, proxy, hurried, fault, capsys
):
    proxy.fault = lambda request: fault if request.name == "lines/05-aab1.png" and request.kind == "read" else None
    assert run(store, "infer", "--max_reject_fraction=0.1") == EXIT_DONE
    assert proxy.counts()["read"] >= 24 + (5 if fault == "cut" else 2)
    assert "23 read with mean confidence" in (said := capsys.readouterr().out)
    assert "1 rejected (1 unreadable)" in said
    (path,) = [file.url for file in storage.find_files(f"{store}/ws/rejects")]
    (row,) = pyarrow.parquet.read_table(io.BytesIO(storage.read_bytes(path))).to_pylist()
    assert row["uri"] == f"{store}/lines/05-aab1.png"
    assert "cut short or damaged on the way, several times" in row["detail"]


@pytest.mark.parametrize("size", [100, 9 << 20])
def test_what_is_damaged_on_its_way_to_the_store_is_sent_again_and_replaces_nothing(
    bucket, object_store, proxy, monkeypatch, size
):
    content = b"content".ljust(size)
    ask, damaged = proxy.ask, []

    def spoil(method, path, body, headers):
        if b"content" in body and len(damaged) < times:
            damaged.append(path)
            body = body.replace(b"content", b"cONTENT")
        return ask(method, path, body, headers)

    monkeypatch.setattr(proxy, "ask", spoil)
    times = 2
    storage.write_bytes(f"{bucket}/x", content)
    assert object_store.get(f"{bucket}/x") == content
    times, damaged = 99, []
    with pytest.raises(StoreError, match=rf"{bucket}/x cannot be changed: cut short or damaged on the way"):
        storage.write_bytes(f"{bucket}/x", b"new content".ljust(size))
    assert len(damaged) == 3
    assert object_store.get(f"{bucket}/x") == content


@pytest.mark.parametrize("by_whom", ["client", "store"])
def test_what_is_stored_compressed_is_read_whoever_decompresses_it(bucket, object_store, proxy, monkeypatch, by_whom):
    """As `gsutil cp -z` stores it; its checksum is of the bytes that are stored."""
    content = b"label\n" * 1000
    object_store.put(f"{bucket}/x", gzip.compress(content))
    ask, encodings = proxy.ask, {"client": "Content-Encoding", "store": "X-Goog-Stored-Content-Encoding"}

    def compressed(method, path, body, headers):
        status, answered, sent = ask(method, path, body, headers)
        assert any(name.lower() == "x-goog-hash" for name, _ in answered)
        return status, [*answered, (encodings[by_whom], "gzip")], gzip.decompress(sent) if by_whom == "store" else sent

    monkeypatch.setattr(proxy, "ask", compressed)
    assert storage.read_bytes(f"{bucket}/x") == content
    assert proxy.counts() == {"read": 1}


def test_no_more_is_received_of_an_object_than_is_asked_for(bucket, object_store, proxy, monkeypatch):
    """A listed image may be replaced by gigabytes before it is read."""
    object_store.put(f"{bucket}/x", b"content")
    ask, grown = proxy.ask, b"x" * (50 << 20)

    def answer(method, path, body, headers):
        status, answered, _ = ask(method, path, body, headers)
        return status, [(name, value) for name, value in answered if name.lower() != "content-length"], grown

    assert storage.read_bytes(f"{bucket}/x", at_most=8) == b"content"
    monkeypatch.setattr(proxy, "ask", answer)
    tracemalloc.start()
    try:
        assert storage.read_bytes(f"{bucket}/x", at_most=1 << 20) == grown[: 1 << 20]
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_the_checksum_is_compared_of_a_whole_object_that_is_read_within_a_bound(bucket, object_store, proxy):
    object_store.put(f"{bucket}/x", b"content")
    proxy.first(2, "flip", "read")
    assert storage.read_bytes(f"{bucket}/x", at_most=7) == b"content"
    assert proxy.counts() == {"read": 3}


def test_a_large_file_goes_up_in_parts_that_are_sent_again(bucket, object_store, proxy, hurried):
    content = os.urandom(20 << 20)
    proxy.every(2, [503, "reset"])
    storage.write_bytes(f"{bucket}/large", content)
    assert object_store.get(f"{bucket}/large") == content
    assert proxy.counts()["write"] >= 6
    assert storage.read_bytes(f"{bucket}/large", at_most=5) == content[:5]
    assert storage.compute_checksum(f"{bucket}/large") == hashlib.sha256(content).hexdigest()


def test_an_outage_ends_within_the_stated_time(bucket, object_store, proxy, monkeypatch):
    """In real time, but for the half minute that silence takes each time: as long as all pauses, not longer."""
    monkeypatch.setattr(objects, "ANSWER_S", 0.5)
    object_store.put(f"{bucket}/x", b"content")
    faults = {"unavailable": 503, "busy": 429, "silent": "hang", "broken": "reset"}
    proxy.fault = lambda request: faults.get(request.name.strip("/"))

    def seconds(name: str) -> tuple[float, str]:
        started = time.monotonic()
        ask = storage.list_names if name in ("busy", "silent") else storage.read_bytes
        with pytest.raises(StoreError) as caught:
            ask(f"{bucket}/{name}")
        return time.monotonic() - started, str(caught.value)

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        took = dict(zip(faults, pool.map(seconds, faults), strict=True))
    for name, (waited, sentence) in took.items():
        assert 31 <= waited <= PAUSES_S + 6 * 0.5 + 4, took
        assert f"{bucket}/{name}" in sentence
        assert sentence.endswith("): run again later")
    tries = collections.Counter(request.name.strip("/") for request in proxy.requests)
    assert {tries[name] for name in ("unavailable", "busy", "silent")} == {6}
    assert 6 <= tries["broken"] <= 12  # below gcsfs, a request that a used connection lost is made once more


@pytest.mark.parametrize(
    ("kinds", "fault"),
    [
        ({"read"}, 503),
        ({"write"}, 429),
        ({"list"}, "hang"),
        ({"copy"}, "reset"),
        ({"delete"}, 500),
    ],
)
def test_an_outage_in_the_middle_is_one_sentence_and_the_next_run_goes_on(
    store, proxy, hurried, monkeypatch, kinds, fault, capsys
):
    monkeypatch.setattr(objects, "ANSWER_S", 0.2)
    count, tried = itertools.count(), collections.Counter()

    def fail(request):
        failing = request.kind in kinds and request.name != "ws/.lock" and next(count) >= 2
        tried[request] += failing
        return fault if failing else None

    proxy.fault = fail
    assert run(store, "ingest") == EXIT_AGAIN
    assert 6 <= max(tried.values()) <= 12  # below gcsfs, a request that a used connection lost is made once more
    (error,) = errors(capsys)
    assert error.startswith("error: the object store ")
    assert store in error
    assert error.endswith(": run again later")
    proxy.fault = lambda _: None
    monkeypatch.setattr(objects, "ANSWER_S", 30)
    assert run(store, "ingest") == EXIT_DONE, capsys.readouterr()
    assert len(examples(store)) == 24


@contextlib.contextmanager
def at_once(proxy, status):
    """Makes sure that what is refused with a status is not asked for again and again: gcsfs would do so six times."""
    refused = collections.Counter()
    proxy.answered = lambda request, code: refused.update([request] if code == status else [])
    started = time.monotonic()
    yield
    assert max(refused.values(), default=0) <= 3, refused
    assert time.monotonic() - started < GENEROUS_S


@pytest.mark.parametrize("flag", ["workspace", "images", "infer_images"])
def test_a_bucket_that_is_not_there_is_named_at_once(refused_store, proxy, flag, capsys):
    flags = {
        "workspace": f"{refused_store}/ws",
        "images": f"{refused_store}/lines",
        "infer_images": f"{refused_store}/lines",
    }
    flags[flag] = "gs://bucket-of-nobody/there"
    with at_once(proxy, 404):
        assert main([f"--steps={'ingest' if flag == 'images' else 'infer'}", *(f"--{n}={v}" for n, v in flags.items())])
    (error,) = errors(capsys)
    assert f"--{flag}" in error
    assert "there is no bucket gs://bucket-of-nobody" in error


def test_nothing_below_a_prefix_is_said_with_its_flag(refused_store, capsys):
    assert (
        main([f"--workspace={refused_store}/ws", "--steps=ingest", f"--images={refused_store}/nothing"]) == EXIT_REFUSED
    )
    assert errors(capsys) == [
        f"error: --images: nothing matches '{refused_store}/nothing'; give a folder, a file or a glob that exists"
    ]


@pytest.mark.parametrize(
    ("prefix", "kinds", "said"),
    [
        ("ws", {"list"}, "--workspace={store}/ws cannot be used: no permission (no storage.objects access)"),
        (
            "lines",
            {"list", "information"},
            "--images: cannot list {store}/lines: no permission (no storage.objects acc",
        ),
        ("ws", {"write"}, "{store}/ws/.lock cannot be changed: no permission"),
        ("ws/unf", {"write"}, "{store}/ws/unfinished/listing-"),
    ],
)
def test_a_permission_that_lacks_is_one_sentence_at_once(refused_store, proxy, prefix, kinds, said, capsys):
    proxy.fault = lambda request: 403 if request.name.startswith(prefix) and request.kind in kinds else None
    with at_once(proxy, 403):
        assert run(refused_store, "ingest") == EXIT_REFUSED
    error = errors(capsys)[0]
    assert error.startswith("error: " + said.format(store=refused_store))
    assert "no permission (no storage.objects access)" in error


def test_an_image_without_permission_is_left_out(store, proxy, capsys):
    proxy.fault = lambda request: 403 if request.name == "lines/05-aab1.png" and request.kind == "read" else None
    assert run(store, "infer", "--max_reject_fraction=0.1") == EXIT_DONE
    assert "1 rejected (1 unreadable)" in capsys.readouterr().out


@pytest.fixture
def fresh_credentials(monkeypatch, tmp_path):
    """Credentials are looked for anew, in an empty home too."""
    monkeypatch.setenv("HOME", str(tmp_path))
    forget_file_systems()
    yield
    forget_file_systems()


def test_credentials_that_are_refused_are_one_sentence_at_once(
    refused_store, proxy, monkeypatch, tmp_path, fresh_credentials, capsys
):
    with token_server("none", status=401) as token_uri:
        write_credentials(tmp_path / "refused.json", token_uri)
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "refused.json"))
        with at_once(proxy, 401):
            assert run(refused_store, "ingest") == EXIT_REFUSED
    assert proxy.requests == []
    (error,) = errors(capsys)
    assert f"GOOGLE_APPLICATION_CREDENTIALS={tmp_path}/refused.json" in error
    assert "Invalid JWT Signature" in error


@pytest.mark.parametrize("given", ["none", "no such file", "not JSON", "a server of tokens that is not there"])
def test_no_usable_credentials_are_one_sentence_at_once(
    refused_store, proxy, monkeypatch, tmp_path, fresh_credentials, given, capsys
):
    path = tmp_path / "credentials.json"
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
    if given == "none":
        monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS")
    elif given == "not JSON":
        path.write_text("secret-that-is-no-json")
    elif given.startswith("a server"):
        write_credentials(path, f"http://127.0.0.1:{free_port()}/token")
    proxy.fault = lambda request: None if request.authorised else 401
    with at_once(proxy, 401):
        assert run(refused_store, "ingest") == EXIT_REFUSED
    (error,) = errors(capsys)
    assert "set GOOGLE_APPLICATION_CREDENTIALS to the file of a service account" in error
    assert "secret" not in error


def test_a_token_server_that_does_not_answer_is_waited_for_once_by_all_threads(
    bucket, proxy, monkeypatch, tmp_path, fresh_credentials
):
    """It holds out for a second, of the two minutes that the library for credentials would wait each time."""
    asked = []

    class Silent(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            asked.append(self.path)
            time.sleep(1)
            self.close_connection = True

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Silent) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        write_credentials(tmp_path / "silent.json", f"http://127.0.0.1:{server.server_address[1]}/token")
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "silent.json"))

        def sentence(name):
            with pytest.raises(StoreError) as caught:
                storage.read_bytes(f"{bucket}/{name}")
            return str(caught.value)

        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            said = list(pool.map(sentence, range(32)))
        assert len(asked) == 1
        for name, told in enumerate(said):
            assert told.startswith(f"{bucket}/{name} is refused to these credentials")
        monkeypatch.setattr(objects, "_REFUSED_S", 0)  # a minute later
        sentence("again")
        assert len(asked) == 2
        server.shutdown()
    assert proxy.requests == []


def test_no_secret_is_told_anywhere(store, object_store, proxy, tmp_path, monkeypatch):
    """By the command in a process of its own, through success, refusals, and a failure that nobody foresaw."""
    secrets = [object_store.private_key, object_store.access_token, object_store.access_token.removeprefix("ya29.")]
    key_file = json.loads(Path(object_store.environment["GOOGLE_APPLICATION_CREDENTIALS"]).read_text())
    secrets += [key_file["private_key_id"], *key_file["private_key"].splitlines()[1:-1]]
    command = [f"--workspace={store}/ws", f"--images={store}/lines", f"--infer_images={store}/lines", "--height=32"]
    program = "import sys; from pipeline.main import command; command()"
    unforeseen = (
        "import pipeline.steps, pipeline.main, sys\n"
        "from tfrecords import storage\n"
        "def fail(context):\n"
        f"    storage.open_filesystem('{store}').call('GET', 'b/{{}}/o/{{}}', '{store[5:]}', 'forbidden')\n"
        "(step,) = pipeline.steps.choose_steps(['evaluate'])\n"
        "step.run = fail\n"
        "pipeline.main.command()"
    )
    proxy.fault = lambda request: {"forbidden": 418, "lines/05-aab1.png": 403}.get(request.name)
    told = []
    for code, asked, fraction, status in ((program, "infer", 0.0, 1), (unforeseen, "ingest,evaluate", 0.1, 1)):
        flags = [*command, f"--steps={asked}", f"--max_reject_fraction={fraction}"]
        done = run_python("-c", code, *flags)
        assert done.returncode == status, done.stderr
        told += [done.stdout, done.stderr]
    kept = object_store.objects(f"{store}/ws")
    (log,) = [content.decode() for name, content in kept.items() if name.endswith(".log")]
    assert "Traceback" in log
    assert "HttpError" in log
    assert any("/datasets/" in name and name.endswith("manifest.json") for name in kept)
    told += [content.decode("latin-1") for content in kept.values()]
    assert not [(secret, text) for secret in secrets for text in told if secret in text]


# Two attempts at one commit: an engine repeats what a worker does that is only thought to be dead.


def put_folder(object_store, url, names):
    for name in names:
        object_store.put(f"{url}/{name}", name.encode())
    return {f"final/{name}": name.encode() for name in names}


PARTS = ("a", "b/c", "d")
MOMENTS = {
    "nothing is copied": lambda request: request.kind == "copy",
    "the last file is to be copied": lambda request: request.kind == "copy" and request.name.endswith("manifest.json"),
    "all is copied": lambda request: request.kind == "delete" and request.name.startswith("unfinished"),
    "the source is without its manifest": lambda request: (
        request.kind == "delete" and request.name.startswith("unfinished") and "manifest" not in request.name
    ),
}


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("manifest", ["manifest.json", "_manifest.json"])
def test_a_folder_that_two_attempts_move_is_whole(bucket, object_store, proxy, moment, manifest):
    """The second one begins, and ends, when the first one is as far as that."""
    whole = put_folder(object_store, f"{bucket}/unfinished", [*PARTS, manifest])
    assert moved_meanwhile(proxy, bucket, moment) is None
    assert object_store.objects(bucket) == whole


@pytest.mark.parametrize("moment", ["nothing is copied", "all is copied"])
def test_a_folder_without_a_manifest_is_never_lost_by_two_attempts(bucket, object_store, proxy, moment):
    whole = put_folder(object_store, f"{bucket}/unfinished", PARTS)
    error = moved_meanwhile(proxy, bucket, moment)
    assert object_store.objects(bucket) == whole
    if moment == "nothing is copied":
        assert f"it cannot be moved to {bucket}/final, since some of it is gone" in str(error)
    else:
        assert error is None


def moved_meanwhile(proxy, bucket, moment):
    begun, turn = [], threading.Lock()

    def fault(request):
        with turn:
            if begun or not MOMENTS[moment](request):
                return
            begun.append(request)
        storage.move_folder(f"{bucket}/unfinished", f"{bucket}/final")

    proxy.fault = fault
    try:
        storage.move_folder(f"{bucket}/unfinished", f"{bucket}/final")
    except FileNotFoundError as error:
        return error
    finally:
        assert begun
    return None


def test_a_second_attempt_that_sees_half_of_the_source_takes_nothing_away(bucket, object_store):
    whole = put_folder(object_store, f"{bucket}/unfinished", [*PARTS, "manifest.json"])
    put_folder(object_store, f"{bucket}/final", [*PARTS, "manifest.json"])  # by the first one, which then removes
    for gone in (["manifest.json", "a"], ["b/c", "d"]):
        for name in gone:
            storage.remove_file(f"{bucket}/unfinished/{name}")
        storage.move_folder(f"{bucket}/unfinished", f"{bucket}/final")
        assert object_store.objects(bucket) == whole
    object_store.put(f"{bucket}/unfinished/manifest.json", b"manifest.json")  # written after the parts were gone
    storage.move_folder(f"{bucket}/unfinished", f"{bucket}/final")
    assert object_store.objects(bucket) == whole


def test_a_folder_that_is_moved_again_replaces_all_of_the_former_one(bucket, object_store):
    put_folder(object_store, f"{bucket}/final", ["a", "stale", "evaluation/x", "manifest.json"])
    whole = put_folder(object_store, f"{bucket}/unfinished", [*PARTS, "manifest.json"])
    storage.move_folder(f"{bucket}/unfinished", f"{bucket}/final")
    assert object_store.objects(bucket) == whole


def test_nothing_to_move_takes_nothing_away(bucket, object_store):
    object_store.put(f"{bucket}/final/a", b"1")
    with pytest.raises(FileNotFoundError, match="since some of it is gone: run again"):
        storage.move_folder(f"{bucket}/unfinished", f"{bucket}/final")
    assert object_store.objects(bucket) == {"final/a": b"1"}


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (403, r"--temp_location={url} cannot be used: no permission \(no storage.objects access\)"),
        (400, r"--temp_location={url} cannot be used: its name is refused \(We encountered a problem., 400\)"),
        (404, "--temp_location={url}: there is no bucket {bucket}: create it, or correct its name"),
        (None, None),
    ],
)
def test_a_bucket_that_cannot_be_used_is_one_sentence_with_the_flag(bucket, proxy, fault, said):
    proxy.fault = lambda _: fault
    url = f"{bucket}/folder"
    if fault is None:
        storage.require_bucket(url, "--temp_location")
        return
    with pytest.raises(DataError, match=f"^{said.format(url=url, bucket=bucket)}$"):
        storage.require_bucket(url, "--temp_location")
    assert len(proxy.requests) == 1


# Hostile names


def test_hostile_names_are_accounted_for_once_and_nothing_lands_outside_the_workspace(
    store, object_store, proxy, tiny_images, capsys, tmp_path, monkeypatch
):
    ask = proxy.ask

    def with_dots(method, path, body, headers):
        """The emulator has no names with `..`, which GCS has: it keeps another word for it."""
        path = path.replace("..", "DOTS")
        status, answered, content = ask(method, path, body, headers)
        return status, answered, content if "alt=media" in path else content.replace(b"DOTS", b"..")

    monkeypatch.setattr(proxy, "ask", with_dots)
    image = (tiny_images / "00-11.png").read_bytes()
    images = {
        *("a//b.png", "a/b.png", "//c.png", "d%2Fe.png", "d%252Fe.png", "%", "f?g=1.png", "h#1.png", "h#.png"),
        *("i\nj.png", "k\x01\x7f.png", "l::m.png", "file:::x.png", "[n]*.png", "manifest.bin", "o" * 900, "r/"),
        *("p\\..\\q.png", "\u00e9", "e\u0301", " ", "${HOME}.png", "{}.png", "-rf", "~"),
    }
    hidden = {"../../x.png", "s/..t.png", "./y.png", "u/../v.png", ".z.png"}
    companions = {"manifest.json", "LATEST.txt"}
    for name in images | hidden:
        object_store.put(f"{store}/odd/{name}".replace("..", "DOTS"), image)
    for name in companions:
        object_store.put(f"{store}/odd/{name}", b"{}")
    storage.write_bytes(f"{store}/odd/folder/", b"")
    storage.write_bytes(f"{store}/odd/", b"")
    before = set(object_store.objects(store))
    monkeypatch.chdir(tmp_path)
    flags = [f"--workspace={store}/ws", "--label_source=filename", "--height=32", "--max_reject_fraction=1"]
    assert main([*flags, "--steps=infer", f"--infer_images={store}/odd"]) == EXIT_DONE, capsys.readouterr()
    found = {}
    for file in storage.find_files(f"{store}/ws/predictions"):
        if file.url.endswith(".parquet"):
            for row in pyarrow.parquet.read_table(storage.open_to_read(file.url)).to_pylist():
                assert row["uri"] not in found
                found[row["uri"]] = row["text"]
    assert set(found) == {f"{store}/odd/{name}" for name in images}
    assert len(set(found.values())) == 1  # each read is that image, and no other
    assert main([*flags, "--steps=ingest", f"--images={store}/odd", "--test_fraction=0.2"]) == EXIT_DONE
    manifest = storage.read_json(
        f"{store}/ws/datasets/{storage.read_bytes(f'{store}/ws/datasets/LATEST').decode().strip()}/manifest.json"
    )
    assert manifest["matched"] == len(images)
    after = set(object_store.objects(store))
    assert before <= after
    assert all(name.startswith("ws/") for name in after - before)
    assert list(tmp_path.iterdir()) == []
