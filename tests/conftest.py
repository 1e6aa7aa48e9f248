"""What all tests share: the data beside the project, which must not be skipped, their order."""

import os
import signal
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

# In the background of a shell tests would ignore Ctrl-C, and so would all that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Each test has a core: more threads of torch, here or in a child, would wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

REQUIRE = "VIEWSTORE_REQUIRE"
WAITING = ("slurm", "ray")  # markers of tests that mostly wait for other programs


def required_markers() -> list[str]:
    """Return the markers whose tests must run: CI names them, "browser,nginx"."""
    return os.environ.get(REQUIRE, "").replace(",", " ").split()


def pytest_configure(config: pytest.Config) -> None:
    """Refuse a name that is no marker, which would require nothing."""
    known = {line.partition(":")[0] for line in config.getini("markers")}
    unknown = sorted(set(required_markers()) - known)
    if unknown:
        raise pytest.UsageError(f"{REQUIRE} names {', '.join(unknown)}, which is no marker")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One process more than there are cores for `-n auto`: the one whose tests wait needs none."""
    return len(os.sched_getaffinity(0)) + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put tests that wait first: at the end of a run nothing would be done meanwhile."""
    items.sort(key=lambda item: not any(item.get_closest_marker(name) for name in WAITING))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skip of a test with a required marker into a failure."""
    report = yield
    required = [name for name in required_markers() if item.get_closest_marker(name)]
    if required and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{reason}, and {REQUIRE} names its marker {required[0]}"
    return report


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache of the tests' own: that of the developer is left alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VIEWSTORE_CACHE__DIRECTORY", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of fixtures and data beside the repository; skips where it is absent."""
    folder = Path(__file__).parents[1].parent / "shared"
    if not folder.is_dir():
        pytest.skip("needs ../shared, which is not beside this checkout")
    return folder


@pytest.fixture(scope="session")
def gan_fixtures(shared: Path) -> Path:
    """The folder of StyleGAN2 files of others; skips where it is absent."""
    folder = shared / "fixtures" / "gan"
    if not folder.is_dir():
        pytest.skip("needs ../shared/fixtures/gan, which is not beside this checkout")
    return folder
