"""Two workers share their jobs in PostgreSQL: one is killed, the other finishes what it had begun."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.daemon_home import Home

pytestmark = pytest.mark.heavy


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def programs() -> Path:
    """Debian's PostgreSQL; installed if it is not there."""

    def found() -> list[Path]:
        return sorted(Path("/usr/lib/postgresql").glob("*/bin"))

    if not found() and os.geteuid() == 0:
        for words in (["update"], ["install", "-y", "postgresql"]):
            subprocess.run(["apt-get", "-qq", *words], check=False, env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"})
    if not found():
        pytest.skip("no PostgreSQL here, and none to be installed")
    return found()[-1]


@pytest.fixture(scope="module")
def postgresql() -> Iterator[str]:
    """The URL of an empty database on 127.0.0.1."""
    bin_dir, port = programs(), free_port()
    base = Path(tempfile.mkdtemp(prefix="demixr-postgresql-", dir="/tmp"))  # root's own temporary folders are closed to it
    user = "postgres" if os.geteuid() == 0 else None  # it does not run as root
    if user:
        shutil.chown(base, user, user)
    to = ["-h", "127.0.0.1", "-p", str(port)]
    try:
        subprocess.run([bin_dir / "initdb", "-D", base / "data", "-U", "postgres", "-A", "trust", "-N"], cwd=base, user=user,
                       group=user, check=True, capture_output=True)  # fmt: skip
        server = subprocess.Popen([bin_dir / "postgres", "-D", base / "data", *to, "-k", base, "-F"], cwd=base, user=user,
                                  group=user, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
        try:
            for _ in range(100):
                made = subprocess.run([bin_dir / "createdb", *to, "-U", "postgres", "demixr"], check=False, capture_output=True)
                if made.returncode == 0:
                    break
                time.sleep(0.1)
            yield f"postgresql://postgres@127.0.0.1:{port}/demixr"
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(30)
    finally:
        shutil.rmtree(base, ignore_errors=True)


def second_machine(home: Home, name: str) -> Path:
    """A configuration that separates only, with a state folder of its own; library and inboxes are out of its reach."""
    config = (home.base / "config.yaml").read_text().replace("worker: here", f"worker: {name}\n    stages: separate")
    config = config.replace(str(home.base / "state"), str(home.base / name))
    config = config.replace(str(home.base / "library.db"), str(home.base / name / "no.db"))
    for folder in (home.singles, home.albums, home.urls):
        config = config.replace(str(folder), "")
    other = home.base / f"{name}.yaml"
    other.write_text(config)
    return other


def owner(url: str, key: str) -> str:
    """Which worker has begun the job."""
    engine = sa.create_engine(sa.make_url(url).set(drivername="postgresql+psycopg"))
    query = "SELECT executor_id FROM dbos.workflow_status WHERE status = 'PENDING' AND workflow_uuid LIKE :key"
    with engine.connect() as connection:
        name = connection.execute(sa.text(query), {"key": f"{key}.%"}).scalar()
    engine.dispose()
    return str(name or "")


def test_a_dead_workers_job_is_taken_over(postgresql: str, tmp_path: Path, weights: Path) -> None:
    home = Home(tmp_path / "home", weights, daemon=f"    jobs_url: {postgresql}\n")
    try:
        workers = {"here": home.start(), "there": home.start("-c", second_machine(home, "there"))}
        home.wait(lambda: home.log.exists() and home.log.read_text().count("at work") == 2, 60)
        titles = [f"Title {number}" for number in range(4)]
        for number, title in enumerate(titles):
            home.song(home.singles / f"{number}.flac", title, seconds=60, seed=number)
        work = home.work

        def separating() -> dict[str, str]:
            running = [row.key for row in work.rows(20, ["running"]) if row.stage == "separate" and row.progress]
            return {name: key for key in running if (name := owner(postgresql, key))}

        home.wait(lambda: len(separating()) == 2, 120)  # the work is shared
        lost = separating()["there"]
        workers["there"].kill()
        workers["there"].wait()
        home.wait(lambda: owner(postgresql, lost) != "there", 20)
        home.wait_for_jobs(4, 200)
        assert "worker there is gone; its jobs are taken over" in home.log.read_text()
        home.check_whole(titles)
        assert work.counts() == {"done": 4}
    finally:
        home.end()


def test_a_name_is_taken(postgresql: str, tmp_path: Path, weights: Path) -> None:
    """Two machines of one name would do each other's jobs again."""
    home = Home(tmp_path / "home", weights, daemon=f"    jobs_url: {postgresql}\n")
    try:
        home.start()
        home.wait(lambda: home.log.exists() and "at work" in home.log.read_text(), 60)
        answer = home.demixr("-c", second_machine(home, "here"), "run")
        assert answer.returncode == 1
        assert "a worker here is at work already" in answer.stderr
    finally:
        home.end()
