"""Commands that show a store: inspect and stats."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.viewstore.commands import invoke, run
from tests.viewstore.small_stores import build_small, write_photographs
from viewstore.build.finalise import finalise
from viewstore.build.request import BuildRequest
from viewstore.build.run import build
from viewstore.errors import ConfigError
from viewstore.format.paths import StorePaths
from viewstore.inspect.chosen_rows import choose_rows
from viewstore.store.constraints import constraints_of, tally
from viewstore.store.store import open_store


def test_inspect_summarises_every_view_set(digits: Path, searched: Path) -> None:
    result = invoke("inspect", digits)
    assert result.exit_code == 0
    assert re.search(r"^samples +80$", result.output, re.MULTILINE)
    assert "view set simclr" in result.output
    assert "view set wide" in result.output
    assert "4 (4 expert), 16 x 16 x 3 px" in result.output
    assert "crop_box.height" in result.output
    assert open_store(digits).store_id in result.output
    assert re.search(r"[\d.]+ % of views within 0.300 \+-0.02", invoke("inspect", searched).output)


def test_inspect_says_the_same_in_json(searched: Path) -> None:
    answer = json.loads(invoke("inspect", searched, "--json").stdout)
    store = open_store(searched)
    assert answer["store_id"] == store.store_id
    assert answer["result"]["labels"] == {"0": 3, "1": 3}
    facts = answer["result"]["view_sets"]["w-search"]
    assert facts["roles"] == {"generated": 3}
    wanted = constraints_of(store.view_set("w-search"))
    assert wanted is not None
    counted = tally(store.view_set("w-search"), wanted)
    assert facts["constraints"]["share_within"] == counted.share_within
    assert facts["constraints"]["share_converged"] == counted.share_converged
    assert facts["columns"]["distance"]["count"] == 18


def test_inspect_tells_the_params_of_one_sample(digits: Path) -> None:
    store = open_store(digits)
    answer = json.loads(invoke("inspect", digits, "0007", "--view-set", "simclr", "--json").stdout)
    stored = store.view_set("simclr").params["crop_box"][7].tolist()
    assert answer["result"]["key"] == "0007"
    assert answer["result"]["view_sets"]["simclr"]["crop_box"] == stored
    text = invoke("inspect", digits, "0007").output
    assert ",".join(f"{value:.0f}" for value in stored[0]) in text


def test_a_row_number_is_accepted_where_no_key_has_that_name(digits: Path) -> None:
    answer = json.loads(invoke("inspect", digits, "7", "--json").stdout)
    assert (answer["result"]["key"], answer["result"]["row"]) == ("0007", 7)


@pytest.mark.parametrize("key", ["000x", "80", "", "9" * 5000, "\u0663"])
def test_a_key_that_is_not_there_names_the_three_nearest(digits: Path, key: str) -> None:
    with pytest.raises(
        ConfigError, match=r"did you mean '00\d\d', '00\d\d' or '00\d\d'\?$"
    ) as error:
        invoke("inspect", digits, key)
    assert error.value.fix == "give a key, or a row number from 0 to 79"


def test_pictures_are_written_where_the_options_say(digits: Path, tmp_path: Path) -> None:
    sheet, html = tmp_path / "new" / "sheet.png", tmp_path / "report.html"
    result = invoke(
        "inspect", digits, "--sheet", sheet, "--html", html, "-n", 2, "--random", "--seed", 9
    )
    assert result.exit_code == 0
    assert Image.open(sheet).text["viewstore:seed"] == "9"  # type: ignore[attr-defined]
    assert html.read_bytes().startswith(b"<!doctype html>")
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == ["report.html", "sheet.png"]
    assert f"{sheet}: 2 samples" in result.output
    with pytest.raises(ConfigError, match="is a folder"):
        invoke("inspect", digits, "--sheet", tmp_path)


def test_stats_draws_the_histogram_of_a_column(digits: Path) -> None:
    text = invoke("stats", digits, "--column", "flip", "--view-set", "simclr").output
    flips = int(open_store(digits).view_set("simclr").params["flip"].sum())
    assert re.search(rf"^ +1 +{flips}  █+$", text, re.MULTILINE)
    answer = json.loads(invoke("stats", digits, "--json").stdout)
    assert set(answer["result"]["view_sets"]) == {"simclr", "wide"}
    assert answer["result"]["view_sets"]["wide"]["flip"]["count"] == 80 * 12


def test_an_unknown_column_names_the_nearest(digits: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'jitter'"):
        invoke("stats", digits, "--column", "jiter")


def test_control_characters_of_a_store_do_not_reach_the_terminal(tmp_path: Path) -> None:
    source = tmp_path / "images" / "a"
    source.mkdir(parents=True)
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(source / "x\x1b[31m.png")
    build(BuildRequest(generator="simclr", out=tmp_path / "store", source=str(source.parent)))
    key = open_store(tmp_path / "store").keys[0]
    output = invoke("inspect", tmp_path / "store", key).output
    assert "\\x1b[31m" in output
    assert "\x1b" not in output


def test_a_view_set_whose_build_has_not_ended_says_how_far_it_is(
    tmp_path: Path, source: str, capsys: pytest.CaptureFixture[str]
) -> None:
    build_small(tmp_path / "s", source, only=(0, 2))
    code, _, err = run(capsys, "inspect", tmp_path / "s")
    assert (code, "simclr: 2 of 3 shards are there" in err) == (2, True)
    assert "run the same build command again" in err
    build_small(tmp_path / "s", None, view_set="second", seed=1)
    code, _, err = run(capsys, "inspect", tmp_path / "s")
    assert (code, "view set simclr is not complete: 2 of 3 shards are there" in err) == (0, True)
    assert "It is being built, or its build was stopped" in err
    finalise(tmp_path / "s", allow_partial=True)
    code, _, err = run(capsys, "inspect", tmp_path / "s")
    assert (code, "view set simclr is not complete: 2 of 3 shards are there" in err) == (0, True)


def test_get_prints_the_progress_of_a_first_build(
    tmp_path: Path, source: str, capsys: pytest.CaptureFixture[str]
) -> None:
    build_small(tmp_path / "s", source, only=(0, 2))
    code, page, _ = run(capsys, "inspect", tmp_path / "s", "--get", "/")
    assert (code, "2 of 3 shards" in page) == (0, True)
    code, page, _ = run(capsys, "inspect", tmp_path / "s", "--get", "/browse")
    assert (code, "has no manifest.json" in page) == (1, True)
    assert run(capsys, "inspect", tmp_path, "--get", "/")[0] == 2


def test_a_moved_source_is_said_beside_gray_originals(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_photographs(tmp_path / "photos", 3, cut=2)
    build_small(tmp_path / "s", str(tmp_path / "photos"), limit=2)
    (tmp_path / "photos").rename(tmp_path / "moved")
    sheet = ["inspect", tmp_path / "s", "--sheet", tmp_path / "sheet.png"]
    code, _, err = run(capsys, *sheet)
    assert (code, "2 of 2 originals cannot be shown" in err) == (0, True)
    assert "VIEWSTORE_SOURCE=PLACE" in err
    monkeypatch.setenv("VIEWSTORE_SOURCE", str(tmp_path / "moved"))
    code, _, err = run(capsys, *sheet)
    assert (code, "cannot be shown" in err) == (0, False)


def listed(*arguments: object) -> dict[str, Any]:
    """Return what `inspect --json` prints of a list of samples."""
    found: dict[str, Any] = json.loads(invoke("inspect", *arguments, "--json").stdout)["result"]
    return found


def test_filter_and_order_choose_samples_for_text_json_sheet_and_report_alike(
    digits: Path, tmp_path: Path
) -> None:
    where = "any(flip = 1 and gray = 1) and label < 8"
    chosen = [digits, "--view-set", "simclr", "--where", where, "--sort", "-solarize", "-n", 5]
    store = open_store(digits)
    params = store.view_sets["simclr"].params
    kept = ((params["flip"] == 1) & (params["gray"] == 1)).any(axis=1) & (store.labels < 8)
    greatest = params["solarize"].max(axis=1)
    expected = sorted(np.flatnonzero(kept).tolist(), key=lambda row: (-int(greatest[row]), row))
    answer = listed(*chosen)
    rows = [each["row"] for each in answer["rows"]]
    assert rows == expected[:5]
    assert (answer["count"], answer["samples"]) == (len(expected), 80)
    assert answer["columns"] == ["flip", "gray", "label", "solarize"]
    assert set(answer) == {"samples", "count", "understood", "columns", "ranked", "rows"}
    assert set(answer["rows"][0]) == {"key", "row", "label", "values", "by_view"}
    decided = params["solarize"][rows].argmax(axis=1).tolist()
    assert [each["by_view"] for each in answer["rows"]] == decided
    assert answer["rows"][0]["values"]["flip"] == params["flip"][rows[0]].tolist()
    head, *lines, last = invoke("inspect", *chosen).output.splitlines()
    assert head.split() == ["key", "row", "label", "flip", "gray", "solarize", "by", "view"]
    assert [int(line.split()[-1]) for line in lines] == decided
    assert [int(line.split()[1]) for line in lines] == rows
    assert last == f"5 of {len(expected)} samples, the store has 80: {answer['understood']}"
    invoke("inspect", *chosen, "--sheet", tmp_path / "s.png", "--html", tmp_path / "r.html")
    with Image.open(tmp_path / "s.png") as sheet:
        assert sheet.text["viewstore:rows"].split() == list(map(str, rows))  # type: ignore[attr-defined]
        query = json.loads(sheet.text["viewstore:query"])  # type: ignore[attr-defined]
    assert query == {"where": answer["understood"], "sort": "-solarize"}
    shown = re.findall(r"row (\d+), label", (tmp_path / "r.html").read_text())
    assert [int(row) for row in shown[:5]] == rows


def test_random_and_spread_samples_are_those_of_a_sheet(digits: Path) -> None:
    for options, random in ((["--random"], True), ([], False)):
        rows = [each["row"] for each in listed(digits, *options, "-n", 5, "--seed", 3)["rows"]]
        assert rows == choose_rows(open_store(digits), count=5, random=random, seed=3)


def test_no_sample_is_an_answer_too(
    digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = listed(digits, "--where", "label > 99")
    assert (answer["count"], answer["rows"]) == (0, [])
    sheet = tmp_path / "sheet.png"
    code, out, _ = run(capsys, "inspect", digits, "--where", "label > 99", "--sheet", sheet)
    assert (code, out) == (0, "0 of 0 samples, the store has 80: label > 99\n")
    assert not sheet.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["0001", "--where", "label = 1"], "KEY does not go with --where"),
        (["0001", "-n", "3"], "KEY does not go with -n"),
        (["0001", "--random", "--seed", "3"], "KEY does not go with --random and --seed"),
        (["--random", "--sort", "label"], "--random does not go with --sort"),
        (["--worst", "--sort", "label"], "--worst chooses the samples"),
        (["--worst", "--seed", "1"], "--worst chooses the samples"),
        (["--seed", "3"], "--seed seeds a choice of samples, and none is made"),
        (["--where", "label = 1", "--seed", "3"], "--seed seeds a choice of samples"),
        (["--pick", "hard"], "--pick frames views that are drawn"),
        (["--get", "/browse", "--where", "label = 1"], "--get does not go with --where"),
        (["--get", "/browse", "--view-set", "wide"], "--get does not go with --view-set"),
        (["--at", "0", "--get", "/"], "--get does not go with --at"),
        (["--at", "0", "--sheet", "s.png"], "--at does not go with --sheet"),
        (["--at", "0", "--view-set", "wide", "-n", "3"], "--at does not go with -n"),
        (["--at", "0:1:2", "--view-set", "wide"], "--at must be SHARD or SHARD:ROW"),
        (["--at", "9999999", "--view-set", "wide"], "--at must be SHARD or SHARD:ROW"),
        (["--at", "7", "--view-set", "wide"], "there is no shard 7"),
        (["--at", "0:80", "--view-set", "wide"], "there is no row 80 in it"),
        (["--at", "0"], "--at is about one view set"),
        (["--at", "0", "--view-set", "wode"], "there is no view set 'wode'"),
        (["--where", "lable = 1"], "did you mean 'label'"),
        (["--where", "flip = 1"], "must say which column flip is meant"),
        (["--sort", "simclr.flop"], "sort must name a column of simclr"),
        (["--random", "-n", "0"], "must be at least 1, got 0"),
    ],
)
def test_options_that_contradict_or_mean_nothing_are_refused(
    digits: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    code, out, err = run(capsys, "inspect", digits, *arguments)
    assert (code, out) == (2, "")
    assert message in err


def test_one_shard_is_read_where_everything_else_is_damaged(
    tmp_path: Path, source: str, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "s"
    build_small(store, source)
    whole = open_store(store)
    expected = whole.view_sets["simclr"].params["crop_box"][13].tolist()
    shards = whole.view_sets["simclr"].shards
    for number in (0, 2):
        shards[number].path.chmod(0o644)
        shards[number].path.write_bytes(b"")
    for damaged in ("manifest.json", "views/simclr/index.json", "sources/sources.json"):
        found = next(store.rglob(Path(damaged).name))
        found.chmod(0o644)
        found.write_bytes(b"damaged")
    assert run(capsys, "inspect", store)[0] == 3
    at = ("inspect", store, "--view-set", "simclr", "--at")
    code, out, err = run(capsys, *at, "1:5", "--json")
    assert (code, err) == (0, "")
    facts = json.loads(out)["result"]
    assert (facts["rows"], facts["faults"]) == ([8, 8], [])
    row = facts["row"]
    assert (row["row"], row["key"], row["params"]["crop_box"]) == (13, whole.keys[13], expected)
    assert [each["whole"] for each in row["members"]] == [True, True]
    assert set(facts) == {"view_set", "shard", "rows", "commit", "files", "faults", "row"}
    code, out, _ = run(capsys, *at, "1:5")
    assert (code, "every check of this shard passes" in out) == (0, True)
    code, out, _ = run(capsys, *at, "0")
    assert code == 1
    assert "! size: 0 bytes, its commit says" in out


@pytest.mark.parametrize("part", ["views", "params", "commit", "gone", "plan"])
def test_the_checks_that_fail_are_named(
    tmp_path: Path, source: str, capsys: pytest.CaptureFixture[str], part: str
) -> None:
    store = tmp_path / "s"
    build_small(store, source)
    paths = StorePaths(store).view_set("simclr")
    entry = open_store(store).view_sets["simclr"].shards[1].entry
    files = {"commit": paths.commit(1), "gone": paths.commit(1), "plan": paths.plan}
    path = files.get(part) or paths.root / entry.file(part).name
    path.chmod(0o644)
    if part == "gone":
        path.unlink()
    else:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    code, out, err = run(capsys, "inspect", store, "--at", "1:3")
    said = {
        "views": "! hash: sha256",
        "params": "! params: row 3 cannot be read",
        "commit": "! commit: commit of shard 1 cannot be used",
        "gone": "! missing: it was not built",
    }
    assert code == (3 if part == "plan" else 1)
    assert said.get(part, "plan.json") in out + err


def test_a_page_is_printed_and_the_exit_code_says_whether_it_is_an_error(
    digits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, "inspect", digits, "--get", "/browse?where=label < 3&n=2")
    assert (code, out.startswith("<!doctype html>"), "label &lt; 3" in out) == (0, True, True)
    for address in ("/nothing", "browse?where=lable = 1", "/browse?format=xml"):
        assert run(capsys, "inspect", digits, "--get", address)[0] == 1, address
    code, out, _ = run(capsys, "inspect", digits, "--get", "/browse?n=2&format=json", "--json")
    result = json.loads(out)["result"]
    assert set(result) == {"status", "media_type", "body"}
    assert len(json.loads(result["body"])["rows"]) == 2
    root = open_store(digits).manifest.sources_id[:16]
    picture = f"/picture/{root}/simclr/original/0001?side=96"
    code, _, err = run(capsys, "inspect", digits, "--get", picture)
    assert (code, "is a picture" in err) == (2, True)
