"""Options that have no effect, or that nothing can follow, are refused; silence is kept."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.viewstore.commands import run
from tests.viewstore.small_stores import build_small
from viewstore.cli.options import parse_shards
from viewstore.errors import ConfigError


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, source: str) -> Path:
    folder = tmp_path_factory.mktemp("options")
    build_small(folder / "s", source)
    return folder / "s"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--only", "0"), "--only has no effect without --repair"),
        (("--failed",), "--failed has no effect without --repair"),
        (("--on-error", "skip"), "--on-error has no effect without --repair"),
        (("--gan", "f"), "--gan has no effect without --repair"),
        (("--only", "999", "--failed"), "--only, --failed has no effect without --repair"),
        (("--repair", "--only", "999"), "--only must name shards below 3, got 999"),
    ],
)
def test_verify_ignores_no_option(
    store: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], said: str
) -> None:
    code, _, err = run(capsys, "verify", store, *options)
    assert code == 2
    assert said in err


URL = "http://127.0.0.1:9/v1/stores/views"


@pytest.mark.parametrize(
    "arguments",
    [
        ("refresh",),
        ("bench",),
        ("rm", "moco"),
        ("mv", "moco", "other"),
        ("export", "--format", "ffcv", "--out", "x"),
    ],
)
def test_what_takes_a_folder_says_so_of_a_url(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    name, *rest = arguments
    code, out, err = run(capsys, name, URL, *rest)
    assert (code, out) == (2, "")
    assert f"viewstore {name} takes the folder of a store, and this is a URL" in err
    assert f"where: {URL}\n" in err
    assert "inspect, stats, verify, train and serve take a URL" in err
    assert "build, status, finalise, gc and jobfile that of a bucket" in err
    code, out, _ = run(capsys, name, URL, *rest, "--json")
    answer = json.loads(out)
    assert (code, answer["command"], answer["error"]["where"]) == (2, name, URL)


@pytest.mark.parametrize(
    "arguments",
    [
        ("status", URL),
        ("finalise", URL),
        ("gc", URL),
        ("build", "--generator", "moco", "--out", URL),
        ("gan", "invert", "-o", URL),
    ],
)
def test_what_takes_a_bucket_says_so_of_another_url(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert "a store at http:// can be read, and not listed or written to" in err
    assert f"where: {URL}\n" in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (("export", "here", "--format", "ffcv", "-o", URL), "--out"),
        (("train", URL, "--out", "gs://bucket/run"), "--out"),
        (("replay", URL, "0", "0", "--out", "s3://bucket/v.png"), "--out"),
        (("inspect", URL, "--html", URL), "--html"),
        (("verify", "here", "--repair", "--gan", URL), "--gan"),
        (("serve", URL, "--token-file", URL), "--token-file"),
    ],
)
def test_a_path_is_no_url(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    option: str,
) -> None:
    """The system would take it for a folder named "http:", and make it."""
    monkeypatch.chdir(tmp_path)
    code, _, err = run(capsys, *arguments)
    assert (code, f"{option} must be a path on this machine, and this is a URL" in err) == (2, True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("place", "meant"),
    [
        ("s3:/bucket/x", "s3://bucket/x"),
        ("s3:bucket", "s3://bucket"),
        ("GS:/bucket/x", "gs://bucket/x"),
        ("http:/host/x", "http://host/x"),
        ("file:/data/x", "file:///data/x"),
    ],
)
@pytest.mark.parametrize(
    "arguments",
    [
        ("build", "--generator", "simclr", "-j", "1", "--out"),
        ("status",),
        ("verify",),
        ("inspect",),
        ("stats",),
        ("serve",),
        ("bench",),
        ("train", "--views", "simclr", "--epochs", "1", "--out", "run"),
        ("train", "s", "--views", "simclr", "--epochs", "1", "--out"),
    ],
)
def test_what_is_almost_a_url_is_no_folder(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    place: str,
    meant: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = run(capsys, *arguments, place)
    assert (code, f"did you mean {meant}?" in err) == (2, True), err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_may_have_the_name_of_a_scheme(
    store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(store, tmp_path / "s3:" / "x")
    monkeypatch.chdir(tmp_path)
    for command in ("status", "inspect", "verify"):
        assert run(capsys, command, "./s3:/x")[0] == 0


def test_a_file_url_is_the_folder_that_it_names(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(capsys, "status", store.as_uri())[0] == 0


@pytest.mark.parametrize(
    "text", ["0-9999999999", "9" * 400, "5-3", "17-", "-3", "", "1,,2", "1_0", "٣"]
)
def test_shards_that_no_store_has_are_refused_before_they_are_counted(text: str) -> None:
    with pytest.raises(ConfigError, match="--only must list shards like 17,20-22"):
        parse_shards(text)


def test_shards_are_listed() -> None:
    assert parse_shards("17, 20-22") == (17, 20, 21, 22)


def test_a_slice_and_a_list_of_shards_contradict_each_other(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("build", "--generator", "simclr", "--out", store, "--shard", "0/2", "--only", "1")
    code, _, err = run(capsys, *arguments, "-j", "1")
    assert (code, "not both" in err) == (2, True)


def test_quiet_prints_no_result(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "-q", "status", store) == (0, "", "")
    assert run(capsys, "inspect", store, "-q") == (0, "", "")
    code, out, err = run(capsys, "-q", "--json", "status", store)
    assert (code, err, json.loads(out)["ok"]) == (0, "", True)
    assert run(capsys, "-q", "inspect", store / "nowhere")[2] != ""


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("build", "--generator", "simclr", "--source", ""), "'--source'"),
        (("build", "--generator", "simclr", "--out", ""), "'-o' / '--out'"),
        (("build", "--generator", "simclr", "--out="), "'-o' / '--out'"),
        (("build", "--generator", "simclr", "--view-set", ""), "'--view-set'"),
        (("build", "--generator", ""), "'--generator'"),
        (("build", "--generator", "w-search", "--gan", ""), "'--gan'"),
        (("verify", ""), "'STORE'"),
        (("status", ""), "'STORE'"),
        (("status", "s", "--view-set", ""), "'--view-set'"),
        (("rm", "s", ""), "'SET'"),
        (("inspect", ""), "'STORE'"),
        (("inspect", "s", "--sheet", ""), "'--sheet'"),
        (("inspect", "s", "--html", ""), "'--html'"),
        (("stats", "s", "--column", ""), "'--column'"),
        (("replay", "s", "0", "0", "--out", ""), "'-o' / '--out'"),
        (("export", "s", "--format", "ffcv", "--out", ""), "'-o' / '--out'"),
        (("export", "s", "--format", "ffcv", "--out", "x", "--where", ""), "'--where'"),
        (("train", "s", "--views", "simclr", "--out", ""), "'-o' / '--out'"),
        (("eval", "", "--source", "digits"), "'CHECKPOINT'"),
        (("eval", "run", "--source", ""), "'--source'"),
        (("gan", "train", "--part", "generator", "--source", "", "--out", "x"), "'--source'"),
    ],
)
def test_nothing_that_is_given_is_empty(
    store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    what: str,
) -> None:
    shutil.copytree(store, tmp_path / "s")
    monkeypatch.chdir(tmp_path)
    code, _, err = run(capsys, *arguments)
    assert code == 2
    assert f"Invalid value for {what}: it must not be empty" in err
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


BUILD = ("build", "--generator", "simclr", "--out", "s", "--view-set", "simclr", "-j", "1")
GAN_TRAIN = ("gan", "train", "--part", "generator", "--out", "x")
REPLAY = ("replay", "s", "0", "0")


@pytest.mark.parametrize(
    ("arguments", "said", "expected"),
    [
        ((*BUILD, "--grace", "nan"), "'--grace': nan is no finite number", 2),
        ((*BUILD, "--grace", "-5"), "'--grace': -5.0 is not in the range x>=0", 2),
        ((*BUILD, "--device", "foo"), "device foo cannot be used", 3),
        ((*GAN_TRAIN, "--device", "foo"), "device foo cannot be used", 3),
        ((*GAN_TRAIN, "--kimg", "nan"), "'--kimg': nan is no finite number", 2),
        (("bench", "s", "--seconds", "nan"), "'--seconds': nan is no finite number", 2),
        (("train", "s", "--views", "x", "--out", "r", "--lr", "inf"), "'--lr': inf is no", 2),
        ((*REPLAY, "-o", "r.xyz"), "--out must end in .png, got 'r.xyz'", 2),
        ((*REPLAY, "-o", "png"), "--out must end in .png, got 'png'", 2),
        ((*REPLAY, "-o", "/"), "--out must name a file, and / is a folder", 2),
        (("replay", "nowhere", "0", "0", "-o", "r.jpg"), "--out must end in .png", 2),
        (("inspect", "s", "--sheet", "x.jpg"), "--sheet must end in .png, got 'x.jpg'", 2),
        (("inspect", "s", "--html", "x.png"), "--html must end in .html or .htm, got", 2),
        (("inspect", "s", "--html", "/"), "--html must name a file", 2),
    ],
)
def test_values_are_checked_before_any_work(
    store: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    said: str,
    expected: int,
) -> None:
    monkeypatch.chdir(store.parent)
    code, _, err = run(capsys, *arguments)
    assert (code, said in err) == (expected, True), err


@pytest.mark.parametrize(
    ("number", "said"),
    [
        ("9" * 33, "numbers of at most 32 characters"),
        ("-" + "9" * 1500, "numbers of at most 32 characters"),
        ("1e999", "beyond 1e308"),
        ("-9e308", "beyond 1e308"),
    ],
)
def test_a_filter_with_a_number_beyond_all_is_refused(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], number: str, said: str
) -> None:
    arguments = ("export", store, "--format", "webdataset", "--out", tmp_path / "e")
    code, _, err = run(capsys, *arguments, "--where", f"blur < {number}")
    assert code == 2
    assert said in err
    assert run(capsys, *arguments, "--where", f"blur < {'9' * 32}")[0] == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--sample", "9"), "--sample has no effect without --dry-run"),
        (("--gan", "none"), "--gan cannot be given: simclr takes no such network"),
    ],
)
def test_build_ignores_no_option(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], said: str
) -> None:
    code, _, err = run(
        capsys, "build", "--generator", "simclr", "-j", "1", "-o", tmp_path / "s", *options
    )
    assert code == 2
    assert said in err


@pytest.mark.parametrize("seconds", ["nan", "0"])
def test_no_time_is_not_measured_for(
    store: Path, capsys: pytest.CaptureFixture[str], seconds: str
) -> None:
    code, _, err = run(capsys, "bench", store, "--seconds", seconds)
    assert (code, "--seconds" in err) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("replay", "0", "0", "-o", "v.jpg"), "--out must end in .png, got 'v.jpg'"),
        (("inspect", "--sheet", "s.jpg"), "--sheet must end in .png, got 's.jpg'"),
        (("inspect", "--html", "r.png"), "--html must end in .html or .htm, got 'r.png'"),
    ],
)
def test_a_picture_is_written_to_no_name_of_another_kind_of_file(
    store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = run(capsys, arguments[0], store, *arguments[1:])
    assert (code, list(tmp_path.iterdir())) == (2, [])
    assert said in err


def test_status_names_a_view_set_that_is_gone_from_disk(
    tmp_path: Path, source: str, capsys: pytest.CaptureFixture[str]
) -> None:
    build_small(tmp_path / "s", source)
    build_small(tmp_path / "s", source, view_set="second")
    shutil.rmtree(tmp_path / "s" / "views" / "second")
    code, out, _ = run(capsys, "status", tmp_path / "s")
    assert code == 1
    assert f"second: gone from disk; viewstore rm {tmp_path / 's'} second forgets it" in out
