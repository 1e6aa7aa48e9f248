"""One suite over all engines: through any accident, a plan ends in the same store.

Builds are the product's own, by its command line; only the generator is made up (`scripted`). A new
engine is a row of `ENGINES`. Stores lie in a folder, and for some cases in a bucket.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

import viewstore
from tests.ray.conftest import PATIENT, STORE_BYTES, UNWATCHED
from tests.remote.servers import BUCKET, Faults, proxy, s3_environment, s3_server
from tests.scripted import FOLDER, Script, begin, install, marks
from tests.viewstore.small_stores import whole_id
from viewstore.build.finalise import finalise
from viewstore.build.garbage import collect_garbage
from viewstore.files.bucket import Bucket
from viewstore.files.working_copy import PREFIX, store_at
from viewstore.store.verify_remote import verify_remote

REPO = Path(__file__).parents[2]
UNITS, ROW = 16, 5  # a unit is a row; the one to which things happen
PATIENCE = 300.0
KILLED = -signal.SIGKILL
pytestmark = pytest.mark.skipif(
    not Path("/proc/self/environ").is_file(), reason="needs the proc file system"
)


@dataclass(frozen=True)
class Engine:
    """A way to build all units: the options of its commands, which are started at once.

    Attributes:
        at_once: Units that run at once, all commands together.
        here: Whether a unit runs in the process of its command, and ends it where it dies.
        gone: Seconds that workers may live on after their driver was killed: ten times the goal.
    """

    commands: tuple[str, ...]
    at_once: int
    here: bool = False
    gone: float = 20.0


ENGINES = {
    "here": Engine(("-j 1",), 1, here=True),
    "pool": Engine(("-j 2",), 2),
    "slices": Engine(tuple(f"-j 1 --shard {i}/4" for i in range(4)), 4, here=True),
    "ray": Engine(("-j 2 --executor ray",), 2, gone=300.0),
}


@dataclass(frozen=True)
class Case:
    """What happens to a build, and how each command ends that it happens to.

    Attributes:
        code: Exit code.
        here: Exit code where units run in the process of the command, if that is another.
        says: Pattern of what it says then.
        send: Signal to each command, once all workers are in what the script says.
        options: Of each command.
    """

    script: Script
    code: int = 0
    here: int | None = None
    says: str = ""
    send: signal.Signals | None = None
    options: str = ""


NO_NETWORKS = rf"no networks here\n(.*\n)*.*host {re.escape(socket.gethostname())}: the script"
CASES = {
    "ok": Case(Script()),
    "raises once": Case(Script(render="raise", row=ROW, times=1)),
    "raises always": Case(
        Script(render="raise", row=ROW),
        70,
        says=f"RuntimeError: the script forbids row {ROW}",
    ),
    "hangs": Case(
        Script(render="hang"),
        4,
        says=r"VS501\]: shard \d+ was stopped: it did not answer within 10 s",
        send=signal.SIGTERM,
        options="--grace 0",
    ),
    "ends its process": Case(Script(render="die", row=ROW, times=1), here=KILLED),
    "is slow to load": Case(Script(load="slow", loads=1)),
    "cannot be made": Case(Script(load="raise"), 3, says=NO_NETWORKS),
    "cannot be made by one worker": Case(
        Script(load="raise", loads=1, render="slow"), 3, says=NO_NETWORKS
    ),
    "SIGTERM in mid-unit": Case(
        Script(render="wait"), 4, says=r"VS501\]: stopped on request", send=signal.SIGTERM
    ),
    "SIGTERM while it loads": Case(
        Script(load="wait"), 4, says=r"VS501\]: stopped on request", send=signal.SIGTERM
    ),
    "SIGKILL of the driver while it loads": Case(Script(load="wait"), KILLED, send=signal.SIGKILL),
    "SIGKILL of the driver": Case(Script(render="wait"), KILLED, send=signal.SIGKILL),
}
RAY = (
    pytest.mark.ray,
    # Ray leaves files and sockets to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
)
# A slice is a command of "here", which is enough in these; four of them take long to start.
SLOW_IN_SLICES = (
    "raises once",
    "is slow to load",
    "cannot be made by one worker",
    "SIGTERM while it loads",
    "SIGKILL of the driver while it loads",
)


# In these `tests/ray` does the same to builds whose driver is the process of the test.
SLOW_ON_RAY = ("hangs", "ends its process", "cannot be made")


def marks_of(engine: str, case: str) -> Collection[pytest.MarkDecorator]:
    """Return the markers of a row."""
    if engine == "slices" and case in SLOW_IN_SLICES:
        return (pytest.mark.slow,)
    if engine == "ray":
        return (*RAY, pytest.mark.slow) if case in SLOW_ON_RAY else RAY
    return ()


ROWS = [
    pytest.param(engine, case, marks=marks_of(engine, case))
    for engine in ENGINES
    for case in CASES
    if not (case == "hangs" and ENGINES[engine].here)  # nobody could end it
]
QUICK_IN_BUCKETS = (
    ("here", "raises once"),
    ("pool", "ends its process"),
    ("pool", "SIGTERM in mid-unit"),
    ("slices", "SIGKILL of the driver"),
)
ROWS_IN_BUCKETS = [
    pytest.param(engine, case, marks=() if (engine, case) in QUICK_IN_BUCKETS else pytest.mark.slow)
    for engine in ("here", "pool", "slices")
    for case in (
        "ok",
        "raises once",
        "ends its process",
        "SIGTERM in mid-unit",
        "SIGKILL of the driver",
    )
]


@dataclass(frozen=True)
class World:
    """Where builds run: a folder with a source, and the environment of commands."""

    folder: Path
    environment: dict[str, str]
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(
        self, store: Path | str, options: str, *, copies: int | None = None
    ) -> subprocess.Popen[str]:
        """Start a command that builds.

        Args:
            store: Folder, or URL in a bucket.
            options: Of the command.
            copies: The open folder of working copies, which no other process has a path to.
        """
        own = {} if copies is None else {"TMPDIR": f"/proc/self/fd/{copies}"}
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "viewstore", "build", "-q", "--generator", "scripted"),
                *("--source", str(self.folder / "images.npz"), "--out", str(store)),
                *("--shard-rows", "1", *options.split()),
            ],
            cwd=REPO,
            env=self.environment | own,
            pass_fds=() if copies is None else (copies,),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.started.append(process)
        return process


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("engines")
    rng = np.random.Generator(np.random.Philox(7))
    images = rng.integers(0, 256, (UNITS, 8, 8, 3), dtype=np.uint8)
    np.savez(folder / "images.npz", images=images, labels=np.arange(UNITS) % 3)
    made = World(folder, {**os.environ, **install(folder)})
    yield made
    for process in made.started:  # none runs, nor has workers, unless a test has failed
        process.kill()
    for mark in marks(folder, "*/loading"):
        if is_alive(mark.pid):
            os.kill(mark.pid, signal.SIGKILL)
    for process in made.started:
        process.communicate()


@pytest.fixture(scope="module")
def in_bucket(world: World) -> Iterator[World]:
    """The same world, whose commands find a bucket; so does this process."""
    with ExitStack() as stack:
        # The server alone may let two creations of one name win; the proxy lets one at a time in.
        endpoint = stack.enter_context(proxy(stack.enter_context(s3_server()), Faults()))
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        for name, value in s3_environment(endpoint).items():
            patch.setenv(name, value)
        copies = world.folder / "copies"
        copies.mkdir()
        own = s3_environment(endpoint) | {"TMPDIR": str(copies)}
        yield replace(world, environment=world.environment | own)


@pytest.fixture(scope="module")
def ray_world(in_bucket: World) -> Iterator[World]:
    """The same world on a Ray cluster of one node, which has two CPUs."""
    world = in_bucket
    pytest.importorskip("ray", reason="needs the package ray: pip install 'viewstore[ray]'")
    from ray.cluster_utils import Cluster

    handler = signal.getsignal(signal.SIGTERM)
    short = tempfile.mkdtemp(prefix="vs-")  # paths of sockets end after 107 bytes
    own = {"RAY_TMPDIR": short, **PATIENT}
    node = {"num_cpus": 2, "object_store_memory": STORE_BYTES, **UNWATCHED}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (world.environment | own).items():
            patch.setenv(name, value)
        cluster = Cluster(initialize_head=True, head_node_args=node)
        signal.signal(signal.SIGTERM, handler)
        yield replace(world, environment=dict(os.environ, RAY_ADDRESS=cluster.address))
        cluster.shutdown()
    shutil.rmtree(short, ignore_errors=True)


@pytest.fixture(scope="module")
def undisturbed(world: World) -> Path:
    """The store of a build in one process to which nothing happened."""
    store = begin(world.folder, "undisturbed", Script()) / "store"
    assert ended(world.start(store, "-j 1")) == (0, "")
    return store


@pytest.mark.parametrize(("engine", "case"), ROWS)
def test_a_build_ends_in_the_same_store(
    engine: str, case: str, undisturbed: Path, request: pytest.FixtureRequest
) -> None:
    world: World = request.getfixturevalue("ray_world" if engine == "ray" else "world")
    folder = begin(world.folder, f"{engine}, {case}", CASES[case].script)
    store = folder / "store"
    build_through(world, ENGINES[engine], CASES[case], folder, store)
    check_same(store, undisturbed)


@pytest.mark.parametrize(("engine", "case"), ROWS_IN_BUCKETS)
def test_a_build_into_a_bucket_ends_in_the_same_store(
    engine: str, case: str, undisturbed: Path, in_bucket: World
) -> None:
    folder = begin(in_bucket.folder, f"{engine}, {case}, in a bucket", CASES[case].script)
    url = url_of(folder)
    build_through(in_bucket, ENGINES[engine], CASES[case], folder, url)
    check_same_in_bucket(url, undisturbed)


@pytest.mark.ray
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_actors_that_cannot_see_the_working_copy_of_their_driver_make_their_own(
    undisturbed: Path, ray_world: World
) -> None:
    """As on other hosts: the copy of the driver lies where only its own open folder leads."""
    folder = begin(ray_world.folder, "ray, in a bucket", Script())
    (folder / "driver").mkdir()
    before = copies_of(ray_world)
    opened = os.open(folder / "driver", os.O_RDONLY)
    try:
        process = ray_world.start(url_of(folder), *ENGINES["ray"].commands, copies=opened)
        assert ended(process) == (0, "")
    finally:
        os.close(opened)
    # Ray ends actors by SIGKILL: their copies wait for the next command.
    assert len(copies_of(ray_world) - before) == 2
    check_same_in_bucket(url_of(folder), undisturbed)


def copies_of(world: World) -> set[Path]:
    """Return the working copies that processes which were killed have left."""
    return set((world.folder / "copies").glob(f"{PREFIX}*"))


def url_of(folder: Path) -> str:
    """Return where in the bucket the store of a case lies."""
    return f"s3://{BUCKET}/engines/{re.sub(r'[^a-zA-Z]+', '-', folder.name)}"


def build_through(world: World, how: Engine, what: Case, folder: Path, store: Path | str) -> None:
    """Build a store while things happen, then what is left of it by the same commands."""
    commands = [f"{words} {what.options}" for words in how.commands]
    running = [world.start(store, words) for words in commands]
    faults = 0
    if what.send is not None:
        met = "begun" if what.script.load == "ok" else "loading"
        until(lambda: len(marks(folder, met)) == how.at_once, running)
        faults = len(marks(folder, "begun")) if what.send == signal.SIGKILL else 0
        disturb(running, what.send, folder, how.gone)
    ends = [ended(process) for process in running]
    hit = {words: end for words, end in zip(commands, ends, strict=True) if end[0]}
    code = what.here if how.here and what.here is not None else what.code
    assert {found for found, _ in hit.values()} == {code} - {0}, ends
    assert all(re.search(what.says, said) for _, said in hit.values()), ends
    until(lambda: no_worker_is_alive(folder))

    Script().write(folder)
    for words in hit:
        assert ended(world.start(store, words)) == (0, "")
    if len(commands) > 1:
        with store_at(store) as (root, upstream):
            finalise(root, upstream=upstream)
    faults += len(marks(folder, "fault"))
    assert UNITS <= len(marks(folder, "begun")) <= UNITS + faults


def disturb(
    running: Sequence[subprocess.Popen[str]], number: signal.Signals, folder: Path, gone: float
) -> None:
    """Signal commands whose workers wait, then let the workers go on, if they have not ended."""
    for process in running:
        process.send_signal(number)
    if number == signal.SIGKILL:
        until(lambda: no_worker_is_alive(folder), seconds=gone)
    (folder / "go").touch()


def until(
    happened: Callable[[], bool],
    running: Sequence[subprocess.Popen[str]] = (),
    *,
    seconds: float = PATIENCE,
) -> None:
    """Wait until something has happened; fail where a command ends before."""
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, "it does not happen"
        assert all(each.poll() is None for each in running), [ended(each) for each in running]
        time.sleep(0.01)


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Return exit code and errors of a command."""
    _, said = process.communicate(timeout=PATIENCE)
    return process.returncode, said


def no_worker_is_alive(folder: Path) -> bool:
    """Whether all processes that made a generator have ended."""
    return not any(is_alive(mark.pid) for mark in marks(folder, "loading"))


def is_alive(pid: int) -> bool:
    """Whether a process of these tests has this number; a zombie's environment is empty."""
    try:
        return FOLDER.encode() in Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False


def check_same(store: Path, undisturbed: Path) -> None:
    """Check that a store is whole, without a file too many, and that of an undisturbed build."""
    assert whole_id(store) == viewstore.open(undisturbed).store_id
    assert names(store) == names(undisturbed)


def check_same_in_bucket(url: str, undisturbed: Path) -> None:
    """The same of a store in a bucket, which has no arrays and no folder for temporary files."""
    with store_at(url) as (root, upstream):
        collect_garbage(root, upstream, older_seconds=0, dry_run=False)
    assert list(verify_remote(url, level="content")) == []
    assert viewstore.open(url).store_id == viewstore.open(undisturbed).store_id
    expected = {name for name in names(undisturbed) if not re.search(r"params\.zarr/|tmp/", name)}
    assert set(Bucket(url).listed()) == expected


def names(store: Path) -> set[str]:
    """Return the names of all files of a store."""
    return {str(path.relative_to(store)) for path in store.rglob("*") if path.is_file()}
