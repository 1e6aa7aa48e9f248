"""The harness that measures loaders: its statistics, its table, and one tiny contest."""

import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def module(name: str) -> ModuleType:
    """Import a module of the benchmarks, which are no package of ours."""
    if str(BENCHMARKS) not in sys.path:
        sys.path.insert(0, str(BENCHMARKS))
    return importlib.import_module(name)


def repeat(views: int, seconds: float, **others: float) -> dict[str, Any]:
    return {"views": views, "seconds": seconds, "cpu_seconds": 2.0, "others_cores": 0.0, **others}


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The figures of a contest over 64 digits."""
    folder = tmp_path_factory.mktemp("contest")
    out = folder / "out.json"
    options = ["--workloads", "A", "--contenders", "limit,viewstore", "--samples", "64"]
    options += ["--small", "digits", "--data", str(folder / "data"), "--out", str(out)]
    options += ["--rounds", "1", "--epochs", "2", "--seconds", "0.05", "--warm-up", "0.1"]
    module("loaders").main([*options, "--allow-load"])
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def test_a_tiny_contest_measures_everyone(record: dict[str, Any]) -> None:
    contenders = record["workloads"]["A"]["contenders"]
    for name in ("limit", "viewstore"):
        entry = contenders[name]
        assert entry["status"] == "measured", entry["why"]
        assert len(entry["repeats"]) == 2
        assert all(each["views"] == each["epochs"] * 64 * 2 for each in entry["repeats"])
        assert entry["first_batch_seconds"][0] > 0
        assert entry["peak_bytes"][0] > 1 << 20
    pixels = contenders["viewstore"]["pixels"]
    assert (pixels["mean"], pixels["views"]) == (0, 128)
    assert 0.2 < pixels["flipped"] < 0.8


def test_a_record_says_where_it_was_taken(record: dict[str, Any]) -> None:
    assert record["schema"] == module("contest.results").SCHEMA
    assert set(record) == {
        *("schema", "commit", "changed_files", "command", "machine", "load_before", "quiet"),
        *("cores", "protocol", "workloads"),
    }
    versions = record["workloads"]["A"]["contenders"]["limit"]["versions"]
    packages = {"numpy", "opencv-python-headless", "simplejpeg", "torch", "viewstore"}
    assert set(versions) == {"python", *packages}


def test_the_table_of_a_record_has_a_line_for_the_workload(record: dict[str, Any]) -> None:
    text = module("table").document(record)
    (line,) = [each for each in text.splitlines() if each.startswith("| A | cached")]
    assert line.count("|") == 7  # its name and title, limit, viewstore, and our two shares
    assert line.endswith(" | - |")  # no peer took part


def test_summary_gives_median_and_range_and_counts_disturbed_repeats() -> None:
    repeats = [repeat(100, 1.0), repeat(100, 2.0), repeat(100, 4.0, others_cores=0.9)]
    found = module("contest.results").summary(repeats)
    assert found["views_per_second"] == {"median": 50, "min": 25, "max": 100}
    assert found["cpu_microseconds_per_view"] == pytest.approx(2e4)
    assert found["noisy_repeats"] == 1
    assert module("contest.results").summary([]) == {}


def entry(median: float | None, why: str = "") -> dict[str, Any]:
    facts: dict[str, Any] = {"versions": {"x": "1"}, "first_batch_seconds": [3.0, 1.0, 2.0]}
    if median is None:
        return {**facts, "status": "absent", "why": why}
    rates = {"median": median, "min": median, "max": median}
    return {**facts, "status": "measured", "why": None, "views_per_second": rates}


def made_up(**changes: Any) -> dict[str, Any]:  # noqa: ANN401
    contenders = {
        "limit": entry(2e6),
        "viewstore": entry(1.5e6),
        "viewstore verify=off": entry(1.6e6),
        "ffcv": entry(2.5e5),
        "torch": entry(3e6),
        "dali": entry(None, "no Python here has it"),
    }
    workload = {"title": "cached", "batch_size": 512, "contenders": contenders}
    return {
        "protocol": {"rounds": 2, "epochs": 3},
        "machine": {"processor": "some CPU"},
        "cores": 2,
        "commit": "0123456789abcdef",
        "quiet": True,
        "workloads": {"A": workload},
        **changes,
    }


def test_table_shows_losses_and_names_who_is_missing() -> None:
    lines = module("table").document(made_up()).splitlines()
    assert lines[2] == (
        "|  | workload | limit | viewstore | FFCV | DALI CPU | torch + cv2 | of limit "
        "| of best peer |"
    )
    assert lines[4] == (
        "| A | cached, batch 512 | 2.00M | 1.50M | 250k | - | 3.00M | 0.75 | 0.50x torch + cv2 |"
    )
    assert lines[5] == '|  | `verify="off"` |  | 1.60M |  |  |  | 0.80 |  |'
    assert "| A | 2.0 | 2.0 | 2.0 | - | 2.0 |" in lines
    assert "A: DALI CPU absent: no Python here has it." in lines
    assert not any("busy" in line or "Other processes" in line for line in lines)


def test_table_says_that_the_machine_was_busy() -> None:
    record = made_up(quiet=False)
    record["workloads"]["A"]["contenders"]["ffcv"]["noisy_repeats"] = 3
    text = module("table").document(record)
    assert "trust neither rates nor ratios" in text
    assert "more than a quarter of a core in 3 epochs" in text


def test_table_is_written_between_its_markers_again_and_again(tmp_path: Path) -> None:
    table = module("table")
    page, results = tmp_path / "page.md", tmp_path / "results.json"
    page.write_text(f"before\n{table.BEGIN}\nstale\n{table.END}\nafter\n")
    results.write_text(json.dumps(made_up()))
    for _ in range(2):
        table.main(["--page", str(page), "--results", str(results)])
    text = page.read_text()
    assert text.startswith(f"before\n{table.BEGIN}\nViews per second")
    assert text.endswith(f"\n{table.END}\nafter\n")
    assert text.count("| A | cached") == 1
    assert "stale" not in text


def test_a_page_without_markers_is_refused() -> None:
    with pytest.raises(ValueError, match="must have the lines"):
        module("table").inserted("no markers", "block")


def test_a_busy_machine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    loaders = module("loaders")
    monkeypatch.setattr(module("contest.usage").os, "getloadavg", lambda: (0.7, 0.0, 0.0))
    with pytest.raises(loaders.UnavailableError, match=r"it is 0\.70"):
        loaders.check_quiet(allow_load=False)
    assert loaders.check_quiet(allow_load=True) == 0.7


def test_an_absent_contender_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = module("contest.rounds")
    monkeypatch.setitem(rounds.CONTENDERS, "ffcv", ("no_such_package",))
    found = rounds.pythons(["ffcv"])
    assert found == {"ffcv": None}
    run = rounds.Run(
        folder=Path(),
        cores=1,
        rounds=1,
        epochs=1,
        least_seconds=0.0,
        warm_up_seconds=0.0,
        tuned={},
        say=lambda line: None,
    )
    entries = rounds.contest(run, module("contest.workloads").WORKLOADS["A"], found)
    assert entries["ffcv"].status == "absent"
    assert "no_such_package" in entries["ffcv"].why


def test_every_contender_has_a_module_and_a_column() -> None:
    rounds, worker, table = (module(n) for n in ("contest.rounds", "contest.worker", "table"))
    lines = set(rounds.CONTENDERS)
    assert set(rounds.OVERRIDES) == {name for name in lines if " " in name}
    assert set(rounds.ONLY) <= lines
    contenders = {rounds.module_of(name) for name in lines}
    assert contenders == set(worker.MODULES) == set(table.NAMES)
    for name in worker.MODULES.values():
        assert (BENCHMARKS / f"{name.replace('.', '/')}.py").is_file()
    lines = {name.partition(" ")[2] for name in lines} - {""}
    assert lines == set(table.SECOND_LINES)


def test_peers_without_torch_do_not_import_it_for_their_crops() -> None:
    code = "import sys, contest.crops; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=BENCHMARKS, check=True)


def write_case(folder: Path, found: list[np.ndarray]) -> tuple[Path, Path]:
    """Write what a contender showed."""
    path = folder / "pixels.npz"
    arrays = {f"slot{number}": views for number, views in enumerate(found)}
    np.savez(path, index=np.arange(64), **arrays)
    return path, folder


@pytest.fixture
def stored(tmp_path: Path) -> np.ndarray:
    """64 samples of 3 cached views, as workload A keeps them."""
    views = np.random.default_rng(1).integers(0, 256, (64, 3, 32, 32, 3), dtype=np.uint8)
    np.save(tmp_path / "views.npy", views)
    return views


def test_pixels_match_any_cached_view_and_its_mirror_image(
    tmp_path: Path, stored: np.ndarray
) -> None:
    shown = [stored[:, 0], stored[:, 2, :, ::-1]]
    compare, workload = module("contest.pixels").compare, module("contest.workloads").WORKLOADS["A"]
    found = compare(*write_case(tmp_path, shown), workload, "torch")
    assert (found.mean, found.flipped, found.same, found.passed) == (0.0, 0.5, 0, True)


@pytest.mark.parametrize("fault", ["one value", "a view twice"])
def test_other_pixels_do_not_pass(tmp_path: Path, stored: np.ndarray, fault: str) -> None:
    shown = [stored[:, 0].copy(), stored[:, 1].copy()]
    if fault == "one value":
        shown[1][63, 31, 31, 2] ^= 1
    else:
        shown[1][5] = stored[5, 0, :, ::-1]
    compare, workload = module("contest.pixels").compare, module("contest.workloads").WORKLOADS["A"]
    assert not compare(*write_case(tmp_path, shown), workload, "torch").passed


def test_missing_samples_and_other_shapes_are_refused(tmp_path: Path, stored: np.ndarray) -> None:
    compare, workload = module("contest.pixels").compare, module("contest.workloads").WORKLOADS["A"]
    path, folder = write_case(tmp_path, [stored[:, 0, :16], stored[:, 1]])
    with pytest.raises(ValueError, match="slot 0 is uint8"):
        compare(path, folder, workload, "torch")
    np.savez(path, index=np.arange(63), slot0=stored[:, 0], slot1=stored[:, 1])
    with pytest.raises(ValueError, match="63 were delivered"):
        compare(path, folder, workload, "torch")


def test_contenders_keep_their_bytecode(monkeypatch: pytest.MonkeyPatch) -> None:
    process = module("contest.process")
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setenv("OF_THE_USER", "kept")
    found = process.environment(process.BENCHMARKS)
    assert "PYTHONDONTWRITEBYTECODE" not in found
    assert found["OF_THE_USER"] == "kept"


def test_a_process_that_fails_tells_its_last_words(tmp_path: Path) -> None:
    process, workloads = module("contest.process"), module("contest.workloads")
    order = process.Order(
        contender="ffcv",
        workload=workloads.WORKLOADS["A"],
        data=tmp_path,
        settings={},
        cores=1,
    )
    with (
        process.Process(sys.executable, order) as started,
        pytest.raises(process.ContenderFailedError, match="ffcv"),
    ):
        started.first_batch()
