"""Results in a bucket, of a real server: what holds there as in a folder, and what breaks."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from pathlib import Path

import pytest
from tiny_book import add_cell, batch
from tiny_cluster import PATIENCE, kernels_of, until
from tiny_server import ASKING, NOWHERE, a_server

from core.batch import bucket as buckets
from core.batch import objects
from core.batch.bucket import Bucket
from core.batch.folder import Folder
from core.batch.grid import plan, tasks_of, typed_grid
from core.batch.results import Results
from core.batch.task import Orders, Outcome, perform

for package in ("boto3", "moto", "flask_cors"):
    pytest.importorskip(package, reason=f"needs {package}: pip install 'papers-executed[s3,dev]'")

KEY = "0123456789abcdef0123"
LOG = "open('../log', 'a').write(f'{seed}\\n')"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with a_server(tmp_path_factory.mktemp("server")) as address:
        yield address


@pytest.fixture
def asking(server, monkeypatch):
    """Have this process, and those it starts, ask the server."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in {**NOWHERE, **ASKING, "AWS_ENDPOINT_URL": server}.items():
        monkeypatch.setenv(name, value)
    objects._client.cache_clear()
    yield server
    objects._client.cache_clear()


@pytest.fixture
def s3(asking):
    """A client of its own, to look past ours."""
    from boto3.session import Session

    client = Session().client("s3")
    client.create_bucket(Bucket="runs")
    yield client
    client.close()


@pytest.fixture
def place(s3, tmp_path) -> str:
    """A prefix of this test alone."""
    return f"s3://runs/{tmp_path.name}"


@pytest.fixture
def results(place) -> Bucket:
    found = Bucket(place)
    found.open()
    return found


def stored(s3, results: Results) -> dict[str, bytes]:
    """Everything below the prefix, as a client sees it that knows nothing of results."""
    prefix = results.place.removeprefix("s3://runs/") + "/"
    listed = s3.list_objects_v2(Bucket="runs", Prefix=prefix).get("Contents", ())
    return {
        one["Key"].removeprefix(prefix): s3.get_object(Bucket="runs", Key=one["Key"])["Body"].read()
        for one in listed
    }


def filled(folder: Path, text: str) -> Path:
    folder.mkdir()
    (folder / "tiny.ipynb").write_text(f"notebook {text}")
    (folder / "tiny.json").write_text(f"record {text}")
    return folder


def tasks(root: Path, seeds: str):
    return list(tasks_of(plan(root, typed_grid(("tiny",), ("cpu",), (), seeds))))


def test_a_chapter_is_executed_into_a_bucket_and_a_failure_kept_there(book, results, s3):
    add_cell(book, "import os; assert seed != 1 or os.path.exists('../ok'), 'not yet'")
    good, bad = tasks(book, "0,1")
    orders = Orders(str(book), results.place)
    results.save_plan([good, bad])
    assert perform(good, orders) == Outcome("done")
    assert perform(bad, orders).said.endswith(f"not yet; kept in {results.place}/failed/{bad.key}")

    there = stored(s3, results)
    seal = json.loads(there[f"done/{good.key}/seal.json"])
    kept = {path for path in there if path.startswith("done/")}
    assert kept == {f"done/{good.key}/seal.json"} | {
        f"done/{good.key}/{sealed[:16]}/{name}" for name, sealed in seal["files"].items()
    }
    assert set(there) - kept == {
        *("format.json", "plan.jsonl"),
        f"failed/{bad.key}/seal.json",
        *(f"failed/{bad.key}/tiny.failed{suffix}" for suffix in (".ipynb", ".json")),
    }
    said = batch(book, "status", results.place, "--verify").stdout.splitlines()
    assert said[0] == "2 tasks: 1 done, 0 running, 1 failed, 0 waiting"
    assert said[1].startswith("tiny cpu seed=1: failed at line ")

    (book / "ok").touch()
    assert perform(bad, orders) == Outcome("done")
    assert results.names("failed") == set()


@pytest.fixture
def both(once, refreshed, results) -> tuple[Path, Folder, Bucket]:
    """A book, and the same two results in a folder and in a bucket."""
    folder = Folder(str(refreshed / "_build" / "grid"))
    folder.open()
    asked = tasks(refreshed, "0,1")
    for where in (folder, results):
        where.save_plan(asked)
        for task in asked:
            with where.claim(task.key) as scratch:
                assert scratch
                record = json.loads((refreshed / "_build" / "run" / "tiny.json").read_text())
                record["given"] = task.given
                record["seed"] = record["parameters"]["seed"] = task.given["seed"]
                (scratch / "tiny.json").write_text(json.dumps(record))
                shutil.copy(refreshed / "_build" / "run" / "tiny.ipynb", scratch)
                where.publish(scratch, task.key)
    return refreshed, folder, results


def test_what_reads_a_folder_reads_a_bucket(both, monkeypatch):
    root, folder, results = both
    for command in (["status", "--verify"], ["results"], ["results", "--all"], ["study"]):
        here, there = (batch(root, *command, where.place) for where in (folder, results))
        assert here.returncode == 0, here.stderr
        assert there == here
    assert batch(root, "plot", results.place, "--out", "a.png").stdout == "drawn in a.png\n"
    assert batch(root, "drift", folder.place, results.place).stdout.endswith("2 runs, all alike\n")
    monkeypatch.setattr("core.batch.task.execute", None)  # nothing may be executed
    again = batch(root, "grid", "tiny", "--seeds", "0,1", "--out", results.place)
    assert (again.returncode, again.stdout) == (0, "2 tasks, 2 of them done before\n")
    (task, _) = tasks(root, "0,1")
    assert perform(task, Orders(str(root), results.place)) == Outcome("done")


def test_a_result_edited_by_hand_is_refused(both, s3):
    root, _, results = both
    path, data = next((p, d) for p, d in stored(s3, results).items() if p.endswith("tiny.json"))
    whole = f"{results.place}/{path}".removeprefix("s3://runs/")
    s3.put_object(Bucket="runs", Key=whole, Body=data.replace(b"3.5", b"3.6"))
    for command in (["results", results.place], ["drift", results.place, results.place]):
        ended = batch(root, *command)
        assert (ended.returncode, ended.stderr.count("hash mismatch")) == (2, 1)
        assert ended.stderr.count("\n") == 1


def test_what_was_uploaded_and_not_sealed_is_no_result(results, s3, tmp_path):
    def killed(*_):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as dying:
        dying.setattr(objects.Objects, "create", killed)
        with pytest.raises(KeyboardInterrupt):
            results.publish(filled(tmp_path / "a", "one"), KEY)
    assert sum(path.endswith(".ipynb") for path in stored(s3, results)) == 1
    assert not results.is_done(KEY)
    assert results.done() == set()

    results.publish(filled(tmp_path / "b", "two"), KEY)
    assert results.done() == {KEY}
    results.verify(KEY)
    kept = [data for path, data in stored(s3, results).items() if path.endswith(".ipynb")]
    assert kept == [b"notebook two"]


@pytest.mark.parametrize("moment", ["put", "create"], ids=["uploads", "seals"])
def test_of_two_that_finish_the_first_stays_whole(results, s3, tmp_path, moment):
    """One is slow: the other has uploaded and sealed its own just before."""
    slow, quick = filled(tmp_path / "slow", "slow"), filled(tmp_path / "quick", "quick")
    step = getattr(objects.Objects, moment)

    def overtaken(*given):
        late.undo()
        results.publish(quick, KEY)
        return step(*given)

    with pytest.MonkeyPatch.context() as late:
        late.setattr(objects.Objects, moment, overtaken)
        results.publish(slow, KEY)
    results.verify(KEY)
    kept = {path.rpartition("/")[2]: data for path, data in stored(s3, results).items()}
    assert kept["tiny.ipynb"] == b"notebook quick"
    assert kept["tiny.json"] == b"record quick"
    assert len(stored(s3, results)) == 1 + 3


def test_a_failure_replaces_the_one_before(results, tmp_path):
    scratch = filled(tmp_path / "a", "one")
    results.put(scratch, "failed", KEY)
    (scratch / "tiny.ipynb").unlink()
    results.put(scratch, "failed", KEY)
    assert results.names(f"failed/{KEY}") == {"tiny.json"}
    results.drop("failed", KEY)
    assert results.names("failed") == set()


def test_a_claim_is_held_as_long_as_its_owner_lives(results, monkeypatch):
    monkeypatch.setattr(buckets, "LEASE", 1.5)
    monkeypatch.setattr(buckets, "BEAT", 0.3)
    with results.claim(KEY) as scratch:
        assert scratch
        assert scratch.is_dir()
        for _ in range(4):
            time.sleep(1)
            with results.claim(KEY) as second:
                assert second is None
            assert results.in_work() == {KEY}
    assert not scratch.exists()
    assert results.in_work() == set()
    with results.claim(KEY) as third:
        assert third


def test_a_claim_that_is_not_renewed_is_one_others_to_take(results, s3, monkeypatch):
    monkeypatch.setattr(buckets, "BEAT", 1000)
    with results.claim(KEY):
        stale = results.objects.get(f"work/{KEY}.lease")
        monkeypatch.setattr(buckets, "LEASE", -1)
        with results.claim(KEY) as thief:
            assert thief
            monkeypatch.setattr(buckets, "LEASE", 20)
            assert results.objects.replace(f"work/{KEY}.lease", b"late", stale.etag) is None
            with results.claim(KEY) as another:
                assert another is None
    assert not [path for path in stored(s3, results) if path.startswith("work/")]


def test_whoever_lost_a_claim_leaves_it_to_its_owner(results, monkeypatch):
    monkeypatch.setattr(buckets, "LEASE", 0)
    monkeypatch.setattr(buckets, "BEAT", 0.2)
    path = f"work/{KEY}.lease"
    with results.claim(KEY):
        results.objects.put(path, b"another's")
        time.sleep(0.5)
    found = results.objects.get(path)
    assert found
    assert found.data == b"another's"


@pytest.mark.grid
def test_a_killed_client_and_two_that_go_on(book, results, s3):
    add_cell(book, f"import time\n{LOG}\ntime.sleep(1)")
    command = [sys.executable, "-m", "core.batch", "grid", "tiny", "--seeds", "0..5", "-j", "1"]
    command += ["--out", results.place]
    both = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    first = subprocess.Popen(command, cwd=book, **both)
    until(lambda: len(results.done()) >= 2 and results.in_work() - results.done())
    first.send_signal(signal.SIGKILL)
    first.communicate()
    until(lambda: not kernels_of(book))
    before, done = stored(s3, results), results.done()
    assert len(done) < 6

    clients = [subprocess.Popen(command, cwd=book, **both) for _ in range(2)]
    said = [client.communicate(timeout=PATIENCE) for client in clients]
    assert [client.returncode for client in clients] == [0, 0], said
    now = stored(s3, results)
    sealed = {path: data for path, data in before.items() if done & set(path.split("/"))}
    assert sealed.items() <= now.items()
    begun = Counter((book / "log").read_text().split())
    assert set(begun) == set("012345")
    assert begun.total() <= 6 + 1  # the first was at something
    assert not [path for path in now if path.startswith("work/")]
    assert sum(path.startswith("done/") for path in now) == 6 * 3
    told = batch(book, "status", results.place, "--verify").stdout
    assert told == "6 tasks: 6 done, 0 running, 0 failed, 0 waiting\n"


def refused(root: Path, *command: str) -> str:
    """The one line in which the command is refused."""
    ended = batch(root, *command)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.count("\n") == 1, ended.stderr
    return ended.stderr


@pytest.mark.parametrize("command", ["grid tiny --out", "status", "results", "plot", "study"])
def test_a_bucket_that_is_not_there_is_refused(book, asking, command):
    said = refused(book, *command.split(), "s3://absent/a")
    assert said == "refused: s3://absent/a: there is no such bucket: make it, or name another\n"


def test_wrong_credentials_are_refused(book, place, asking):
    def check_who_asks(after: str) -> None:
        plain = {"Content-Type": "text/plain"}
        request = urllib.request.Request(f"{asking}/moto-api/reset-auth", after.encode(), plain)
        urllib.request.urlopen(request).close()

    check_who_asks("0")
    try:
        said = refused(book, "grid", "tiny", "--out", place)
    finally:
        check_who_asks("inf")
    assert said.startswith(f"refused: {place}: the server does not let you (InvalidAccessKeyId): ")


def test_no_credentials_are_refused(book, place, monkeypatch):
    for name in ASKING:
        monkeypatch.delenv(name)
    objects._client.cache_clear()
    assert "credentials: set AWS_ACCESS_KEY_ID and AWS" in refused(book, "status", place)


@pytest.mark.parametrize("silent", [True, False], ids=["silent", "closed"])
def test_a_server_that_does_not_answer_is_refused(book, asking, monkeypatch, silent):
    monkeypatch.setattr(objects, "WAIT", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        if not silent:
            listening.close()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        said = refused(book, "grid", "tiny", "--out", "s3://runs/a")
    assert said.startswith("refused: s3://runs/a: no server answers: ")
    assert f"http://127.0.0.1:{port}" in said


@pytest.mark.parametrize("header", ["If-None-Match", "If-Match"])
def test_a_server_without_conditional_writes_is_refused(book, place, header):
    def forget(request, **_):
        del request.headers[header]

    events = objects._client(objects.WAIT).meta.events
    events.register("before-sign.s3.PutObject", forget)
    said = refused(book, "grid", "tiny", "--out", place)
    assert "the server knows no conditional writes" in said


@pytest.mark.parametrize("address", ["s3://", "s3:///a", "gs://runs/a"])
def test_an_address_of_another_kind_is_refused(book, address):
    said = refused(book, "grid", "tiny", "--out", address)
    assert said == f"refused: {address}: want a folder, or s3://bucket/prefix\n"


def test_without_boto3_it_is_said_what_to_install(book, place, monkeypatch):
    objects._client.cache_clear()
    monkeypatch.setitem(sys.modules, "boto3.session", None)
    assert refused(book, "status", place) == (
        "refused: s3:// needs boto3: pip install 'papers-executed[s3]'\n"
    )
