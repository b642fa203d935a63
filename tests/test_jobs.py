"""The record of jobs: asked for twice, done once; who goes first; what is kept."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from demixr_daemon.cli.jobs import table
from demixr_daemon.errors import AudioError, Cancelled, CrashError, GoneError, JobsError
from demixr_daemon.jobs.child import Child, RemoteError
from demixr_daemon.jobs.database import BULK, HURRIED, Database, jobs
from demixr_daemon.jobs.ledger import Job, Ledger, Watchful
from demixr_daemon.jobs.listing import SqliteListing
from demixr_daemon.jobs.view import JobRow
from demixr_daemon.jobs.work import Jobs, is_url
from demixr_daemon.jobs.workflow import MOST_STARTS, Workflows
from demixr_daemon.settings import DaemonOptions


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Jobs]:
    database = Database("", tmp_path / "state")
    yield Jobs(database)
    database.close()


@pytest.fixture
def ledger(work: Jobs) -> Ledger:
    return Ledger(work)


def turn_of(work: Jobs, key: str) -> int:
    with work.database.connection() as connection:
        return int(connection.execute(sa.select(jobs.c.turn).where(jobs.c.key == key)).scalar_one())


def begun(ledger: Ledger, key: str) -> Job:
    job = ledger.begin(key, turn_of(ledger.work, key))
    assert job is not None
    return job


def queued(work: Jobs) -> list[tuple[str, str, int]]:
    """Workflow, queue and priority of what waits, in the order in which it is handed out."""
    with work.database.connection() as connection:
        return [tuple(row) for row in connection.execute(sa.text(
            "SELECT workflow_uuid, queue_name, priority FROM workflow_status WHERE status IN ('ENQUEUED', 'DELAYED') "
            "ORDER BY priority, created_at"))]  # fmt: skip


def test_the_file_is_the_users_alone(work: Jobs) -> None:
    work.add(["https://example.org/1"])
    assert work.database.file
    for path in work.database.file.parent.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert stat.S_IMODE(work.database.file.parent.stat().st_mode) == 0o700


def test_the_same_url_is_one_job(work: Jobs, ledger: Ledger) -> None:
    [key] = work.add(["https://example.org/1"])
    assert work.add(["https://example.org/1"], hurried=False) == [key]
    ledger.end(begun(ledger, key))
    assert work.add(["https://example.org/1"]) == [key]
    assert [(row.key, row.state) for row in work.rows()] == [(key, "done")]
    assert work.prune() == 1
    assert work.rows() == []
    assert work.add(["https://example.org/1"], hurried=False) == [key]
    assert work.rows() == []  # it was done


def test_the_same_file_is_one_job_until_it_changes(work: Jobs, ledger: Ledger, tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    path.write_bytes(b"one")
    [key] = work.add([str(path)])
    path.write_bytes(b"still coming")
    assert work.add([str(path)]) == [key]  # it is unfinished: the import sees what it has become
    ledger.end(begun(ledger, key))
    assert work.add([str(path)]) != [key]


def test_a_failed_file_that_changed_is_tried_again(work: Jobs, ledger: Ledger, tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    path.write_bytes(b"half")
    key = work.add_path(path, singleton=True)
    ledger.end(begun(ledger, key), "failed", "truncated")
    assert work.add_path(path, singleton=True) == key
    assert work.rows()[0].state == "failed"
    path.write_bytes(b"the whole")
    assert work.add_path(path, singleton=True) == key
    assert work.rows()[0].state == "waiting"


def test_a_path_that_is_not_there(work: Jobs) -> None:
    with pytest.raises(AudioError, match="nothing: no audio file there"):
        work.add(["/nothing"])


@pytest.mark.parametrize(("source", "url"), [
    ("https://youtu.be/x", True), ("http://127.0.0.1:80/a.mp3", True), ("ytsearch:foo", True), ("HTTPS://A.B", True),
    ("a.flac", False), ("/abs/a:b.flac", False), ("./x: y.mp3", False), ("C", False),
])  # fmt: skip
def test_urls_and_paths(source: str, url: bool) -> None:
    assert is_url(source) is url


def test_tracks_of_the_library_can_be_asked_for_again(work: Jobs, ledger: Ledger) -> None:
    assert work.separate([1, 2]) == ["item-1", "item-2"]
    assert work.separate([1]) == ["item-1"]
    assert turn_of(work, "item-1") == 0
    ledger.end(begun(ledger, "item-1"))
    work.separate([1])
    assert turn_of(work, "item-1") == 1
    assert work.row("item-1").state == "waiting"  # type: ignore[union-attr]
    [other] = work.separate([1], model="umxl")
    assert other not in ("item-1", "item-2")


def test_what_is_hurried_overtakes(work: Jobs) -> None:
    work.separate(range(10), hurried=False)
    [key] = work.separate([99])
    assert queued(work)[0] == (f"{key}.0", "library", HURRIED)
    assert {priority for _, _, priority in queued(work)[1:]} == {BULK}


def test_a_job_and_its_workflow_are_one_write(work: Jobs, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    key = work.add_url("https://example.org/1")
    job = begun(ledger, key)

    def broken(*_: object) -> None:
        raise sa.exc.OperationalError("", {}, Exception("disk I/O error"))

    monkeypatch.setattr(work.database, "enqueue", broken)
    with pytest.raises(JobsError, match="disk I/O error"):
        ledger.hand_over(job, "import")
    with pytest.raises(JobsError):
        work.add_url("https://example.org/2")
    assert [(row.key, row.stage, row.state) for row in work.rows()] == [(key, "download", "running")]


def test_stages_hand_over(work: Jobs, ledger: Ledger) -> None:
    key = work.add_url("https://example.org/1")
    for stage, queue in (("import", "library"), ("separate", "separate"), ("record", "library")):
        ledger.hand_over(begun(ledger, key), stage, details={"path": os.fsdecode(b"caf\xe9")})
        assert (f"{key}.{turn_of(work, key)}", queue, BULK) in queued(work)
    job = begun(ledger, key)
    assert (job.stage, job.details) == ("record", {"path": os.fsdecode(b"caf\xe9")})


def test_a_turn_that_is_over_does_nothing(work: Jobs, ledger: Ledger) -> None:
    key = work.add_url("https://example.org/1")
    job = begun(ledger, key)
    ledger.hand_over(job, "import")
    assert ledger.begin(key, job.turn) is None
    ledger.hand_over(job, "separate")
    ledger.end(job, "failed", "late")
    ledger.note(job, progress=0.5)
    row = work.rows()[0]
    assert (row.stage, row.state, row.reason, row.progress) == ("import", "waiting", "", None)


def test_a_turn_can_be_begun_again_after_a_crash(work: Jobs, ledger: Ledger) -> None:
    key = work.add_url("https://example.org/1")
    job = begun(ledger, key)
    ledger.note(job, progress=0.5)
    assert ledger.begin(key, job.turn) == job
    assert work.rows()[0].progress is None


def test_cancel_and_retry(work: Jobs, ledger: Ledger) -> None:
    key = work.add_url("https://example.org/1")
    assert work.cancel(key)
    assert not work.cancel(key)
    assert queued(work) == []
    assert ledger.begin(key, 0) is None
    assert work.retry(key)
    assert not work.retry(key)
    job = begun(ledger, key)
    watchful = Watchful(ledger, job, lambda: False)
    watchful.check()
    assert work.cancel(key)
    time.sleep(0.6)
    with pytest.raises(Cancelled):
        watchful.check()
    ledger.end(job, "done")
    assert work.rows()[0].state == "cancelled"
    assert not work.cancel("nosuch")
    assert not work.retry("nosuch")


def test_a_download_that_was_not_imported_begins_anew(work: Jobs, ledger: Ledger) -> None:
    """Its file is not kept for ever."""
    key = work.add_url("https://example.org/1")
    ledger.hand_over(begun(ledger, key), "import")
    ledger.end(begun(ledger, key), "failed", "locked")
    work.retry(key)
    assert work.rows()[0].stage == "download"
    ledger.hand_over(begun(ledger, key), "import")
    ledger.hand_over(begun(ledger, key), "separate", item_id=1)
    ledger.end(begun(ledger, key), "failed", "no model")
    work.retry(key)
    assert work.rows()[0].stage == "separate"


def test_rows_and_counts(work: Jobs, ledger: Ledger) -> None:
    keys = [work.add_url(f"https://example.org/{number}") for number in range(4)]
    ledger.end(begun(ledger, keys[3]), "failed", "private")
    begun(ledger, keys[0])
    assert work.counts() == {"waiting": 2, "running": 1, "failed": 1}
    assert [row.key for row in work.rows()] == [keys[0], keys[3], keys[2], keys[1]]
    assert [row.key for row in work.rows(states=["failed"])] == [keys[3]]
    assert len(work.rows(limit=2)) == 2
    assert work.rows(states=["failed"])[0].reason == "private"


def test_ten_thousand_jobs(work: Jobs) -> None:
    work.separate(range(10_000), hurried=False)
    assert work.counts() == {"waiting": 10_000}
    work.separate([20_000])
    assert queued(work)[0][0] == "item-20000.0"


def test_processes_add_at_once(tmp_path: Path) -> None:
    """And create the database, too."""
    code = ("import sys; from pathlib import Path; import dbos; from demixr_daemon.jobs.database import Database\n"
            "from demixr_daemon.jobs.work import Jobs\n"
            "print('here', flush=True); sys.stdin.readline()\n"
            "work = Jobs(Database('', Path(sys.argv[1])))\n"
            "for n in range(30): work.add_url(f'https://example.org/{n}')\n")  # fmt: skip
    command = [sys.executable, "-c", code, str(tmp_path / "state")]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(4)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == b"here\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.close()  # go
    assert [process.wait(120) for process in processes] == [0] * 4
    assert Jobs(Database("", tmp_path / "state")).counts() == {"waiting": 30}


def test_what_others_write_is_noticed(work: Jobs, tmp_path: Path) -> None:
    assert work.database.changed()
    assert not work.database.changed()
    assert not Jobs(Database("", tmp_path / "state")).unfinished()
    assert not work.database.changed()
    Jobs(Database("", tmp_path / "state")).add_url("https://example.org/1")
    assert work.database.changed()
    assert not work.database.changed()
    work.add_url("https://example.org/2")
    assert work.database.changed()


def test_no_database_to_be_had(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "jobs.sqlite").write_bytes(b"this is no database at all" * 100)
    with pytest.raises(JobsError, match=r"jobs\.sqlite cannot be used"):
        Database("", tmp_path / "state")
    with pytest.raises(JobsError) as caught:
        Database("postgresql://user:secret@127.0.0.1:1/jobs", tmp_path / "other")
    assert "secret" not in str(caught.value)


ECHO = """
import json, os, sys
for line in sys.stdin:
    request = json.loads(line)
    if request["do"] == "die":
        os.kill(os.getpid(), request["signal"])
    elif request["do"] == "wait":
        print(json.dumps({"progress": 0.5}), flush=True)
    elif request["do"] == "cancel":
        print(json.dumps({"error": "stopped", "kind": "Cancelled"}), flush=True)
    else:
        print(json.dumps(request["answer"]), flush=True)
"""


@pytest.fixture
def child(tmp_path: Path) -> Iterator[Child]:
    made = Child("separate", None, tmp_path)
    made._command = [sys.executable, "-c", ECHO]
    yield made
    made.stop()


def test_a_child_answers(child: Child) -> None:
    assert child.call({"do": "say", "answer": {"result": {"a": 1}}}) == {"a": 1}
    with pytest.raises(GoneError, match="not there"):
        child.call({"do": "say", "answer": {"error": "not there", "kind": "GoneError"}})
    with pytest.raises(RemoteError) as caught:
        child.call({"do": "say", "answer": {"error": "KeyError: 1", "kind": "Unexpected", "retryable": True}})
    assert caught.value.details["retryable"] is True


@pytest.mark.parametrize(("number", "words"), [(9, "was killed, perhaps for want of memory"), (11, r"crashed \(SIGSEGV\)")])
def test_a_child_that_dies_costs_one_request(child: Child, number: int, words: str) -> None:
    with pytest.raises(CrashError, match=words):
        child.call({"do": "die", "signal": number})
    assert child.call({"do": "say", "answer": {"result": {}}}) == {}


def test_a_child_is_cancelled_between_chunks(child: Child) -> None:
    heard: list[object] = []
    with pytest.raises(Cancelled):
        child.call({"do": "wait"}, heard.append, lambda: bool(heard))
    assert heard == [{"progress": 0.5}]


def test_an_idle_child_is_let_go_and_comes_back(child: Child) -> None:
    assert not child.let_go(0)
    child.call({"do": "say", "answer": {"result": {}}})
    assert not child.let_go(3600)
    assert child.let_go(0)
    assert child.call({"do": "say", "answer": {"result": {}}}) == {}


def test_what_kills_the_daemon_again_and_again_is_parked(work: Jobs, ledger: Ledger, tmp_path: Path) -> None:
    workflows = Workflows(work.database, DaemonOptions(worker="me"), tmp_path, lambda *_: None)
    poison, other = work.add_url("https://example.org/1"), work.add_url("https://example.org/2")
    begun(ledger, poison)
    with work.database.transaction() as connection:
        given_up = "UPDATE workflow_status SET status = 'MAX_RECOVERY_ATTEMPTS_EXCEEDED' WHERE workflow_uuid = :id"
        connection.execute(sa.text(given_up), {"id": f"{poison}.0"})
    workflows.park(ledger)
    row = work.row(poison)
    assert row
    assert (row.state, row.reason) == (
        "failed", f"the daemon died {MOST_STARTS} times while it did this; `demixr retry {poison}` tries again")
    assert work.row(other).state == "waiting"  # type: ignore[union-attr]
    assert work.retry(poison)
    workflows.park(ledger)
    assert work.row(poison).state == "waiting"  # type: ignore[union-attr]


def test_one_daemon_for_each_name(work: Jobs, tmp_path: Path) -> None:
    first = Workflows(work.database, DaemonOptions(worker="me"), tmp_path, lambda *_: None)
    with pytest.raises(JobsError, match=rf"at work already \(process {os.getpid()}\)"):
        Workflows(work.database, DaemonOptions(worker="me"), tmp_path, lambda *_: None)
    Workflows(work.database, DaemonOptions(worker="you"), tmp_path, lambda *_: None)
    assert first.name == "me"


def test_the_table_of_jobs() -> None:
    running = JobRow("key-1", "a.flac", "Foo - A", "separate", "running", 0.25, 3.21, 61.4, "", 1, 0.0, 0.0)
    failed = JobRow("key-2", "u", "Video", "download", "failed", None, None, None, "private: give cookies", None, 0.0, 0.0)
    lines = table([running, failed], {"running": 1, "failed": 1, "waiting": 7}, 200)
    assert lines[1].split() == ["key-1", "running", "separate", "25%", "3.2x", "0:01:01", "Foo", "-", "A"]
    assert lines[3].strip() == "private: give cookies"
    assert lines[4:] == ["... and 7 more", "7 waiting, 1 running, 1 failed"]
    assert "#####---------------" in table([running], {"running": 1}, 200, bars=True)[1]
    assert not any("more" in line for line in table([failed], {"failed": 1, "waiting": 7}, 200, states=["failed"]))
    assert table([], {}, 80) == ["no jobs"]


def test_a_listing_needs_no_more_than_the_file(work: Jobs, ledger: Ledger, tmp_path: Path) -> None:
    keys = [work.add_url(f"https://example.org/{number}") for number in range(3)]
    ledger.end(begun(ledger, keys[0]), "failed", "private")
    begun(ledger, keys[1])
    listing = SqliteListing(tmp_path / "state")
    assert listing.rows() == work.rows()
    assert listing.rows(1, ["failed", "waiting"]) == work.rows(1, ["failed", "waiting"])
    assert listing.counts() == work.counts()


def test_a_listing_of_nothing(tmp_path: Path) -> None:
    listing = SqliteListing(tmp_path)
    for content in (None, b""):  # the file is made before its tables
        if content is not None:
            (tmp_path / "jobs.sqlite").write_bytes(content)
        assert (listing.rows(), listing.counts()) == ([], {})
    (tmp_path / "jobs.sqlite").write_bytes(b"this is no database at all" * 100)
    with pytest.raises(JobsError, match=r"jobs\.sqlite cannot be used"):
        listing.rows()


def test_rows_are_json(work: Jobs) -> None:
    work.add_url("https://example.org/\N{SNOWMAN}")
    json.dumps([vars(row) for row in work.rows()])
