"""The command line: exit codes, four-line errors, one JSON object, a fast start."""

import errno
import importlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest

from tests.viewstore.commands import run
from tests.viewstore.small_stores import build_small, write_npz
from viewstore.cli import main as cli
from viewstore.cli.options import parse_assignments, parse_shards
from viewstore.errors import ConfigError, ViewStoreError

PYTHON = [sys.executable, "-c", "from viewstore.cli.main import main; main()"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    build_small(folder / "s", write_npz(folder / "images.npz"))
    return folder / "s"


def test_done_is_0_and_the_answer_no_is_1(
    store: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run(capsys, "verify", str(store))[0] == 0
    assert run(capsys, "status", str(store))[0] == 0
    build_small(tmp_path / "s", str(store.parent / "images.npz"), only=(0,))
    code, out, _ = run(capsys, "verify", str(tmp_path / "s"))
    assert code == 1
    assert "no build has ended" in out


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["build", "--generator", "w-serch"], 2, "did you mean 'w-search'"),
        (["build"], 2, "Missing option '--generator'"),
        (["build", "--generator", "simclr", "--shard", "3/2"], 2, "--shard must be I/N"),
        (["build", "--generator", "simclr", "--source", "nowhere"], 2, "VS104"),
        (["verify", "nowhere"], 2, "VS202"),
        (["inspect", "nowhere"], 2, "VS202"),
        (["status", "nowhere"], 2, "VS202"),
        (["gan", "convert", "nowhere", "--out", "x.safetensors"], 3, "cannot read"),
        (["no-such-command"], 2, "No such command 'no-such-command'; there are build, refresh"),
        (["verfiy", "nowhere"], 2, "did you mean 'verify'?"),
        (["gan", "convret"], 2, "did you mean 'convert'?"),
    ],
)
def test_mistakes_end_in_an_error_without_a_traceback(
    arguments: list[str],
    code: int,
    text: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    got, _, err = run(capsys, *arguments)
    assert got in (code, 2)
    assert text in err
    assert "error[VS" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("setting", "got"),
    [
        ("views=2.0", "2.0"),
        ("views=true", "True"),
        ("views=NaN", "'NaN'"),
        ("height=8.0", "8.0"),
    ],
)
@pytest.mark.parametrize("source", ["digits", "nowhere"])
def test_a_setting_of_another_type_is_refused_before_the_source_is_looked_at(
    setting: str,
    got: str,
    source: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    build = ["build", "--generator", "simclr", "--out", "s", "--source"]
    if source == "digits":  # and of a view set that is planned
        assert run(capsys, *build, "digits", "--size", "8", "--plan")[0] == 0
    code, _, err = run(capsys, *build, source, "--set", setting)
    name = setting.partition("=")[0]
    assert code == 2
    assert f"{name} must be a whole number, got {got}" in err


def test_a_file_that_is_no_checkpoint_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "x.pkl").write_bytes(b"not a checkpoint")
    out = str(tmp_path / "views")
    code, _, err = run(
        capsys, "build", "--generator", "w-search", "--gan", str(tmp_path / "x.pkl"),
        "--limit", "4", "--out", out,
    )  # fmt: skip
    assert code == 3
    assert "Nothing from the file was executed" in err


def test_json_is_one_object_also_on_failure(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, out, _ = run(capsys, "verify", str(store), "--json")
    done = json.loads(out)
    assert (done["ok"], done["command"], done["result"]["faults"]) == (True, "verify", [])
    _, out, _ = run(capsys, "--json", "verify", "nowhere")
    failed = json.loads(out)
    assert failed["ok"] is False
    assert set(failed["error"]) == {"code", "message", "where", "why", "fix"}


def test_a_mistake_on_the_command_line_is_one_object_too(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """--json stands behind the mistake, so nothing has parsed it."""
    code, out, _ = run(capsys, "verify", "nowhere", "--levle", "--json")
    failed = json.loads(out)
    assert (code, failed["command"], failed["error"]["code"]) == (2, "verify", "VS100")


@pytest.mark.parametrize("arguments", [[], ["gan"]])
def test_no_command_at_all_asks_for_help(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    code, out, err = run(capsys, *arguments)
    assert (code, err) == (0, "")
    assert out == run(capsys, *arguments, "--help")[1]


def test_the_example_in_the_help_is_a_line_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "--help")
    assert "\n    viewstore build --generator w-search && viewstore inspect views\n" in out


def test_quiet_before_the_command_is_quiet(
    store: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    arguments = ["build", "--generator", "simclr", "--source", str(store.parent / "images.npz")]
    assert run(capsys, *arguments, "-j", "1", "--out", str(tmp_path / "a"))[2] != ""
    assert run(capsys, "-q", *arguments, "-j", "1", "--out", str(tmp_path / "b"))[2] == ""


def test_a_bug_of_ours_is_70(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, store: Path
) -> None:
    def broken(*arguments: object, **options: object) -> None:
        raise ZeroDivisionError("boom")

    monkeypatch.setattr("viewstore.store.verify.verify", broken)
    code, _, err = run(capsys, "verify", str(store))
    assert code == 70
    assert "bug in viewstore" in err


def test_an_error_that_nobody_gave_a_kind_is_70(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, store: Path
) -> None:
    """What a worker met and could not name comes back as the base of the tree."""

    def broken(*arguments: object, **options: object) -> None:
        raise ViewStoreError("ZeroDivisionError: boom")

    monkeypatch.setattr("viewstore.store.verify.verify", broken)
    assert run(capsys, "verify", str(store))[0] == 70


@pytest.mark.parametrize(("number", "expected"), [(errno.ENOSPC, 4), (errno.EACCES, 3)])
def test_a_disk_that_refuses_is_no_bug(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    store: Path,
    number: int,
    expected: int,
) -> None:
    def refused(*arguments: object, **options: object) -> None:
        raise OSError(number, os.strerror(number), "views/x")

    monkeypatch.setattr("viewstore.store.verify.verify", refused)
    code, _, err = run(capsys, "verify", str(store))
    assert (code, "error[VS302]" in err, "views/x" in err) == (expected, True, True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_scheduler_may_stop_any_command(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    store: Path,
    number: signal.Signals,
) -> None:
    def signalled(*arguments: object, **options: object) -> list[object]:
        os.kill(os.getpid(), number)
        return []

    monkeypatch.setattr("viewstore.store.verify.verify", signalled)
    heard: list[int] = []

    def callers(got: int, frame: object) -> None:
        heard.append(got)

    before = signal.signal(number, callers)
    try:
        code, _, err = run(capsys, "verify", str(store))
        assert (code, f"stopped by {number.name}" in err, heard) == (4, True, [])
        assert signal.getsignal(number) is callers
    finally:
        signal.signal(number, before)


def test_a_stop_is_no_fault_of_a_store(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, store: Path
) -> None:
    """Verify names every error that a record raises; --repair would withdraw its shard."""

    def signalled(*arguments: object) -> NoReturn:
        os.kill(os.getpid(), signal.SIGTERM)
        pytest.fail("the signal was not heard")

    monkeypatch.setattr("viewstore.store.committed.read_commit", signalled)
    code, _, err = run(capsys, "verify", str(store))
    assert (code, "stopped by SIGTERM" in err) == (4, True)


def test_ctrl_c_is_130(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, store: Path
) -> None:
    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("viewstore.store.verify.verify", interrupted)
    code, _, err = run(capsys, "verify", str(store))
    assert code == 130
    assert err.lstrip() == (
        "error[VS501]: interrupted\n"
        "  why:   every committed shard is kept, and whatever else was finished\n"
        "  fix:   run the same command again\n"
    )
    code, out, _ = run(capsys, "verify", str(store), "--json")
    assert (code, json.loads(out)["error"]["message"]) == (130, "interrupted")


@pytest.mark.parametrize("what", ["stats", "--help"])
def test_a_stdout_whose_reader_has_gone_is_141(store: Path, what: str) -> None:
    process = subprocess.Popen(
        [*PYTHON, what, str(store)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.close()
    _, err = process.communicate()
    assert process.returncode == 141
    assert b"Traceback" not in err


def test_a_stdout_that_was_never_open_is_141(store: Path) -> None:
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", *PYTHON, "stats", str(store)], capture_output=True
    )
    assert done.returncode == 141
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [("status",), ("status", "--json"), ("status", "--help")])
def test_an_answer_that_finds_no_room_is_3(store: Path, arguments: tuple[str, ...]) -> None:
    """Not 4, which says of a build that it goes on."""
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [*PYTHON, arguments[0], str(store), *arguments[1:]], stdout=full, stderr=subprocess.PIPE
        )
    assert done.returncode == 3
    assert b"error[VS302]: the answer could not be written: No space left" in done.stderr
    assert b"every committed shard" not in done.stderr
    assert b"Exception" not in done.stderr


def test_an_error_that_finds_no_room_keeps_its_code(tmp_path: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run([*PYTHON, "status", str(tmp_path / "none")], stderr=full)
    assert done.returncode == 2


def test_a_build_whose_progress_finds_no_room_goes_on(tmp_path: Path) -> None:
    words = ("build", "--generator", "simclr", "--limit", "4", "--workers", "1", "--out")
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run([*PYTHON, *words, str(tmp_path / "s")], stderr=full, timeout=300)
    assert done.returncode == 0
    assert (tmp_path / "s" / "manifest.json").is_file()


def test_paths_in_commands_to_run_are_quoted(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "sp ace"
    words = ("build", "--generator", "simclr", "--limit", 4, "--shard-rows", 2, "--workers", 1)
    told = run(capsys, *words, "--out", out, "--only", 0)[1]
    assert f"not complete yet: viewstore status '{out}'\n" in told
    assert f"then viewstore finalise '{out}'" in run(capsys, "finalise", out)[2]


def test_where_an_error_lies_is_on_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("VIEWSTORE_SHARD", "1/3\nfix: rm -r /\x1b[1m")
    asked = ("build", "--generator", "simclr", "--out", tmp_path / "s", "--shard", "auto")
    code, _, err = run(capsys, *asked)
    assert code == 2
    assert "  where: VIEWSTORE_SHARD 1/3\\nfix: rm -r /\\x1b[1m\n" in err
    assert len(err.splitlines()) == 3


def test_starting_loads_nothing_heavy() -> None:
    code = (
        "import sys, viewstore.cli.main, viewstore.cli.options; "
        "print([m for m in ('torch', 'numpy', 'zarr', 'rich', 'starlette', 'uvicorn', 'jinja2', "
        "'ray') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_stop_signal_that_comes_while_the_command_line_is_loaded_is_heard(number: int) -> None:
    code = (
        "import signal, sys\n"
        "from viewstore.__main__ import main\n"
        "assert not {'click', 'viewstore.cli', 'viewstore.errors'} & set(sys.modules)\n"
        "class Sends:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'click':\n"
        f"            signal.raise_signal({int(number)})\n"
        "sys.meta_path.insert(0, Sends())\n"
        "sys.argv = ['viewstore', 'build', '--help']\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (4, "")
    assert f"stopped by {signal.Signals(number).name}" in done.stderr
    assert "Traceback" not in done.stderr


def test_every_row_of_the_table_is_a_command_of_that_name() -> None:
    for name, entry in cli.COMMANDS.items():
        module, attribute = entry.target.split(":")
        assert getattr(importlib.import_module(module), attribute).name == name


def test_options_with_a_form_of_their_own() -> None:
    assert parse_shards("17,20-22") == (17, 20, 21, 22)
    assert parse_assignments(("eps1=.3", "preset=paper", "generator.views=4")) == {
        "eps1": 0.3, "preset": "paper", "views": 4,
    }  # fmt: skip
    for text in ("x", "1-b"):
        with pytest.raises(ConfigError, match="--only"):
            parse_shards(text)
    with pytest.raises(ConfigError, match="given twice"):
        parse_assignments(("a=1", "a=2"))


def test_a_crash_ends_with_a_line_and_a_stack() -> None:
    code = (
        "import os, signal, sys\n"
        "from viewstore.cli.main import main\n"
        "sys.argv = ['viewstore', '--version']\n"
        "try:\n    main()\nfinally:\n    os.kill(os.getpid(), signal.SIGBUS)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == -signal.SIGBUS
    assert done.stderr.startswith("Fatal Python error: Bus error")


@pytest.mark.parametrize(("closed", "code"), [("2>&-", 0), ("<&- >&- 2>&-", 141)])
def test_a_build_with_workers_ends_though_streams_are_closed(
    tmp_path: Path, closed: str, code: int
) -> None:
    """As of a service or a cron job: a worker's pipe must not get the number of stdout."""
    build = f"{sys.executable} -m viewstore build --generator simclr --limit 4 --shard-rows 2"
    shell = f"{build} --workers 2 --out store {closed}"
    done = subprocess.run(["bash", "-c", shell], cwd=tmp_path, timeout=300)
    assert done.returncode == code
    assert (tmp_path / "store" / "manifest.json").is_file()


def test_the_url_of_no_bucket_is_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(capsys, "build", "--generator", "simclr", "--limit", "2", "--out", "s3://")[0] == 2
    assert not list(tmp_path.iterdir())


def test_an_interrupt_before_the_command_begins_is_said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def interrupted(terminal: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("viewstore.cli.main._warnings_shown", interrupted)
    code, told, said = run(capsys, "status", tmp_path)
    assert (code, told, "error[VS501]: interrupted" in said) == (130, "", True)
