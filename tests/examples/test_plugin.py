"""The package of examples/plugin adds to every table, once it is installed and no sooner."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import viewstore
from tests.examples.plugin import ENTRIES, METADATA, PACKAGE, changed, install, installed
from tests.viewstore.commands import invoke
from viewstore.errors import ConfigError, UnavailableError
from viewstore.format.paths import StorePaths
from viewstore.generators import GENERATORS, settings_class
from viewstore.images.codec import CODECS, codec_from_plan, codec_to_plan, make_codec
from viewstore.plugins import Plugin, plugins
from viewstore.store.committed import read_plan

BUILD = ("build", "--generator", "blots", "--codec", "deflate", "--limit", "12", "-j", "1")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(tmp_path_factory.mktemp("plugin"))


@pytest.fixture
def plugin(site: Path) -> Iterator[None]:
    with installed(site):
        yield


@pytest.fixture(scope="module")
def store(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("plugged") / "views"
    with installed(site):
        invoke(*BUILD, "--out", str(out))
    return out


@pytest.mark.usefixtures("plugin")
def test_it_is_listed_with_its_package(store: Path) -> None:
    listed = json.loads(invoke("build", "--help-settings", "--json").stdout)["result"]
    assert listed["generators"]["blots"] == f"of the package {PACKAGE} 0.1.0"
    assert list(listed["generators"])[-1] == "blots"
    assert "share  [default: 0.5]" in invoke(*BUILD[:3], "--help-settings").output
    assert "deflate" in CODECS
    assert CODECS.own.keys() < set(CODECS)


@pytest.mark.usefixtures("plugin")
def test_a_set_is_built_read_and_proven_with_it(store: Path) -> None:
    views = viewstore.open(str(store)).view_sets["blots"]
    corners = views.params["x_corner"][:]
    for row in range(3):
        for view, (top, left) in zip(views[row], corners[row], strict=True):
            assert (view[top : top + 8, left : left + 8] == 128).all()
    assert len({tuple(each) for each in corners.reshape(-1, 2)}) > 4
    assert "whole" in invoke("verify", str(store), "--content").output


@pytest.mark.usefixtures("plugin")
def test_a_plan_names_package_and_version(store: Path) -> None:
    plan = read_plan(StorePaths(store).view_set("blots"))
    assert plan.libraries[PACKAGE] == "0.1.0"
    assert plan.codec is not None
    assert plan.codec["args"] == {"level": 6, "x_package": PACKAGE}


def test_without_the_package_a_reader_says_what_to_install(store: Path) -> None:
    with pytest.raises(UnavailableError, match=f"codec deflate is of the package {PACKAGE}") as no:
        viewstore.open(str(store)).view_sets["blots"][0]
    assert no.value.fix == f"pip install {PACKAGE}"
    with pytest.raises(UnavailableError, match=PACKAGE):
        invoke("verify", str(store))
    with pytest.raises(ConfigError, match="there is no generator 'blots'"):
        invoke(*BUILD[:3], "--out", str(store))


def test_of_a_raw_set_the_package_is_wanted_for_a_repair_alone(site: Path, tmp_path: Path) -> None:
    out = tmp_path / "views"
    with installed(site):
        invoke(*BUILD[:3], "--limit", "12", "-j", "1", "--out", str(out))
        first = viewstore.open(str(out)).view_sets["blots"][0].copy()
    assert np.array_equal(viewstore.open(str(out)).view_sets["blots"][0], first)
    for tar in (out / "views" / "blots").glob("*.tar"):
        tar.unlink()
    with pytest.raises(UnavailableError, match=f"generator blots is of the package {PACKAGE}"):
        invoke("verify", str(out), "--repair", "-j", "1")


def test_another_version_does_not_go_on_with_a_set(site: Path, store: Path, tmp_path: Path) -> None:
    newer = changed(site, tmp_path, METADATA, "Version: 0.1.0", "Version: 0.2.0")
    with installed(newer), pytest.raises(ConfigError, match=r"was 0\.1\.0, is 0\.2\.0"):
        invoke(*BUILD, "--out", str(store))


def test_a_name_of_ours_stays_ours(site: Path, tmp_path: Path) -> None:
    with installed(changed(site, tmp_path, ENTRIES, "blots = ", "simclr = ")):
        assert settings_class("simclr").__name__ == "Expert"
        assert list(GENERATORS).count("simclr") == 1


def test_two_packages_with_one_name_are_both_named(site: Path, tmp_path: Path) -> None:
    other = changed(site, tmp_path, METADATA, f"Name: {PACKAGE}", "Name: another-example")
    folder = (other / METADATA).parent
    folder.rename(folder.with_name("another_example-0.1.0.dist-info"))
    with installed(site, other), pytest.raises(ConfigError) as both:
        settings_class("blots")
    assert "another-example and viewstore-example" in str(both.value)
    assert list(GENERATORS)  # a list of names is no use of one


def test_an_entry_that_cannot_be_imported_is_named_when_it_is_used(
    site: Path, tmp_path: Path
) -> None:
    module = "viewstore_example/blots.py"
    broken = changed(site, tmp_path, module, "import annotations", "import nothing_of_this_name")
    with installed(broken):
        assert "blots" in invoke("build", "--help-settings").output
        with pytest.raises(UnavailableError) as no:
            settings_class("blots")
    assert f"generator blots of the package {PACKAGE} cannot be used" in str(no.value)
    assert "nothing_of_this_name" in str(no.value)
    assert 'blots = "viewstore_example.blots:Blots"' in (no.value.where or "")


@pytest.mark.usefixtures("plugin")
def test_an_entry_must_be_what_its_table_holds() -> None:
    (found,) = plugins("codec", package=PACKAGE)
    assert found.load_settings(called=lambda kind: kind.name).name == "deflate"
    with pytest.raises(UnavailableError, match="calls itself 'deflate'"):
        Plugin(**{**vars(found), "name": "other"}).load_settings(called=lambda kind: kind.name)
    with pytest.raises(UnavailableError, match="must be a dataclass"):
        Plugin(**{**vars(found), "target": "viewstore_example.blots:GRAY"}).load_settings()


@pytest.mark.usefixtures("plugin")
def test_its_codec_is_read_back_from_a_plan() -> None:
    codec = make_codec("deflate")
    assert codec_from_plan(codec_to_plan(codec, 32)) == codec
