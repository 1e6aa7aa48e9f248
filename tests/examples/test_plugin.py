"""The package of examples/plugin adds to every table, once it is installed and no sooner."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import viewstore
from tests.examples.plugin import ENTRIES, METADATA, PACKAGE, changed, install, installed
from tests.viewstore.commands import invoke, run
from viewstore.errors import ConfigError, UnavailableError
from viewstore.format.paths import StorePaths
from viewstore.generators import GENERATORS, settings_class
from viewstore.generators.checkpoints.function import made_encoder
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


def test_another_version_does_not_go_on_with_a_set(site: Path, tmp_path: Path) -> None:
    out = tmp_path / "views"
    with installed(site):
        invoke(*BUILD[:3], "--limit", "12", "--out", str(out), "--plan")
    newer = changed(site, tmp_path, METADATA, "Version: 0.1.0", "Version: 0.2.0")
    with installed(newer), pytest.raises(ConfigError, match=r"was 0\.1\.0, is 0\.2\.0"):
        invoke(*BUILD[:3], "-j", "1", "--out", str(out))


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


ENCODER = "viewstore_example.coarse:coarse"
PLANTED = {  # what makes the generator impure, and the checks that find it
    "self.stream.uniform(Op.CROP, sample.index, np.arange(s.views))[:, :2]": {
        "np.random.random((s.views, 2))": {
            "a sample is the same alone",
            "samples are the same in any order",
            "global random generators do not matter",
            "another process makes the same",
        },
        "self.stream.uniform(Op.CROP, sample.index, (np.arange(s.views) + len(seen)))[:, :2]": {
            "a sample is the same alone",
            "samples are the same in any order",
        },
        "self.stream.uniform(Op.CROP, hash(str(sample.index)) % 997, np.arange(s.views))[:, :2]": {
            "another process makes the same"
        },
    },
    "views = np.repeat(resize(image, s.height, s.width)[None], s.views, axis=0)": {
        "views = np.repeat(resize(image, s.height, s.width)[None], s.views, 0); image[0] = 0": {
            "source images stay as they are",
            "a sample is the same alone",
            "samples are the same in any order",
            "global random generators do not matter",
        }
    },
    'Column(name="x_corner", dtype="u2"': {
        'Column(name="x_corner", dtype="i4"': {"views and params are as planned"}
    },
    "share=self.share": {"share=self.share / 2": {"settings are their own plan"}},
}


@pytest.mark.usefixtures("plugin")
def test_it_keeps_what_ours_are_held_to(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "conformance", PACKAGE, "--encoder", ENCODER, "--json")
    assert code == 0, err
    checks = json.loads(out)["result"]["checks"]
    assert {fact["kind"] for fact in checks} == {"generator", "codec", "policy", "encoder"}
    assert [fact["differs"] for fact in checks] == [None] * len(checks)


@pytest.mark.parametrize(
    ("before", "after", "found"),
    [(text, other, found) for text, each in PLANTED.items() for other, found in each.items()],
)
def test_a_planted_impurity_is_found_and_named(
    site: Path,
    tmp_path: Path,
    before: str,
    after: str,
    found: set[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    module = "viewstore_example/blots.py"
    planted = changed(site, tmp_path, module, before, after)
    text = (planted / module).read_text().replace("for sample in samples:", SEEN, 1)
    (planted / module).write_text(text)
    with installed(planted):
        code, out, _ = run(capsys, "conformance", PACKAGE)
    failed = [line for line in out.splitlines() if line.startswith("FAIL")]
    assert code == 1
    assert {line.split(": ")[1] for line in failed} == found
    assert all(line.startswith("FAIL  generator blots: ") for line in failed)
    assert f"{len(failed)} of them failed" in out


SEEN = """seen: list[int] = []
        for sample in samples:
            seen.append(sample.index)"""


def test_a_package_that_adds_nothing_is_no_package(site: Path) -> None:
    with installed(site), pytest.raises(ConfigError, match="adds anything") as caught:
        invoke("conformance", "numpy")
    assert caught.value.why == f"packages that do: {PACKAGE}"


def test_what_cannot_be_used_is_held_to_that_alone(
    site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with installed(changed(site, tmp_path, ENTRIES, "blots = ", "simclr = ")):
        code, out, _ = run(capsys, "conformance", PACKAGE)
    (failed,) = [line for line in out.splitlines() if line.startswith("FAIL")]
    assert code == 1
    assert "simclr is a generator of viewstore's own, and stays that" in failed


@pytest.mark.usefixtures("plugin")
def test_its_policy_is_drawn_online_and_stored_in_full(tmp_path: Path) -> None:
    out = str(tmp_path / "views")
    build = ("build", "--generator", "expert", "--set", "policy=dim", "--limit", "16", "-j", "1")
    invoke(*build, "--out", out)
    plan = read_plan(StorePaths(Path(out)).view_set("expert"))
    assert plan.generator["args"]["policy"]["jitter"] == [0.7, 0.3, 0.2, 0.02]
    train = ("train", out, "--views", "dim,expert", "--steps", "2", "--batch-size", "8")
    network = ("--backbone", "conv3", "--projector", "8,8", "--threads", "1")
    invoke(*train, *network, "--out", tmp_path / "run")
    assert (tmp_path / "run" / "encoder.safetensors").exists()


def test_a_set_of_its_policy_needs_the_package_no_longer(site: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "views")
    build = ("build", "--generator", "expert", "--set", "policy=dim", "--limit", "8", "-j", "1")
    with installed(site):
        invoke(*build, "--codec", "params", "--out", out)
    assert "is whole" in invoke("verify", out, "--content").output
    with pytest.raises(ConfigError, match="there is no augmentation policy 'dim'"):
        invoke(*build, "--out", out)


@pytest.mark.usefixtures("plugin")
def test_its_encoder_searches_latent_views(tmp_path: Path) -> None:
    out, given = str(tmp_path / "views"), ("--encoder", ENCODER, "-j", "1")
    with pytest.raises(ConfigError, match="names no augmentation policy") as caught:
        invoke("build", "--generator", "w-search", "--limit", "2", *given, "--out", out)
    assert "--set eps1=0.3" in (caught.value.fix or "")
    few = ("--limit", "2", "--set", "max_steps=3", "--max-missed", "100%")
    invoke("gan", "invert", *few, "--set", "shift_stop=0.06", *given, "--out", out)
    search = ("build", "--generator", "w-search", "--views", "2", "--set", "eps1=0.3")
    assert invoke(*search, *few, *given, "--out", out).exit_code == 0
    weights = {each.role: each for each in viewstore.open(out).view_sets["w-search"].plan.weights}
    assert weights["encoder"].name == ENCODER


@pytest.mark.usefixtures("plugin")
def test_the_same_encoder_as_a_file_searches_them_too(tmp_path: Path) -> None:
    out, file = str(tmp_path / "views"), tmp_path / "coarse.pt2"
    images, number = torch.zeros(4, 3, 16, 16), torch.export.Dim("number", min=1, max=4096)
    network = made_encoder(ENCODER).network.eval()
    program = torch.export.export(network, (images,), dynamic_shapes=({0: number},))
    torch.export.save(program, file)
    given = ("--limit", "2", "--set", "max_steps=3", "--max-missed", "100%", "-j", "1")
    invert = ("gan", "invert", "--set", "shift_stop=0.06", "--out", out)
    invoke(*invert, *given, "--encoder", file)
    perturb = ("build", "--generator", "w-perturb", "--views", "2", "--out", out, "-j", "1")
    assert invoke(*perturb, "--encoder", file, "--set", "sigma=0.2").exit_code == 0
    views, encoder = viewstore.open(out).view_sets, made_encoder(ENCODER)
    for row, found in enumerate(views["w-perturb"].params["distance"]):
        seen = np.concatenate([views["recon"][row], views["w-perturb"][row]])
        features = encoder(torch.from_numpy(seen).permute(0, 3, 1, 2) / 255)
        expected = (features[1:] - features[0]).norm(dim=1)
        np.testing.assert_allclose(found, expected, rtol=1e-3)


@pytest.mark.usefixtures("plugin")
def test_its_codec_is_read_back_from_a_plan() -> None:
    codec = make_codec("deflate")
    assert codec_from_plan(codec_to_plan(codec, 32)) == codec


def test_readers_of_our_own_kinds_look_for_no_packages() -> None:
    """A process of its own: what it loads is what it needs."""
    code = (
        "import sys; from viewstore.images.codec import make_codec; import viewstore.cli.main; "
        "make_codec('jpg'); print('importlib.metadata' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
