"""Commands that show a store: inspect and stats."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.viewstore.commands import invoke, run
from tests.viewstore.small_stores import build_small, write_photographs
from viewstore.build.finalise import finalise
from viewstore.build.request import BuildRequest
from viewstore.build.run import build
from viewstore.errors import ConfigError
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
    finalise(tmp_path / "s", allow_partial=True)
    code, _, err = run(capsys, "inspect", tmp_path / "s")
    assert (code, "view set simclr is not complete: 2 of 3 shards are there" in err) == (0, True)


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
