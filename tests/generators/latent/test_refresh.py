"""Rounds of latent views: what was calibrated on the networks is calibrated on the new ones."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import viewstore
from tests.generators.latent_world import small_encoder, small_gan, source_images, write_networks
from viewstore.build.refresh import refresh
from viewstore.build.request import BuildRequest, Built
from viewstore.build.run import build
from viewstore.errors import ConfigError
from viewstore.format.paths import StorePaths
from viewstore.format.plan import Plan
from viewstore.generators import make_settings
from viewstore.generators.gan.file import Origin, write_generator
from viewstore.generators.latent.starts import STEPS, STEPS_FROM_AVERAGE
from viewstore.store.committed import read_plan
from viewstore.train.encoder_file import save_encoder

ROWS = 6
QUICK: dict[str, Any] = {"slots": 2, "max_steps": 3}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A generator, its encoder, another one of each, and a source."""
    folder = tmp_path_factory.mktemp("networks")
    found = write_networks(folder, samples=ROWS)
    newer = small_encoder(source_images(small_gan(), 16, seed=11))
    found["newer"] = folder / "newer.safetensors"
    save_encoder(found["newer"], newer.settings, newer.network)
    found["other"] = folder / "other.safetensors"
    write_generator(found["other"], small_gan(seed=4), Origin(family="test"), half=False)
    found["source"] = folder / "images.npz"
    return found


@pytest.fixture(scope="module")
def world(files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of an inversion, and of two view sets that start from it."""
    out = tmp_path_factory.mktemp("latent") / "s"
    request: dict[str, Any] = {
        "out": out,
        "source": str(files["source"]),
        "files": networks(files),
        "workers": 1,
        "shard_rows": 4,
    }
    build(BuildRequest(generator="recon", settings=QUICK, **request))
    build(BuildRequest(generator="w-search", settings={"views": 2, **QUICK}, **request))
    build(BuildRequest(generator="w-perturb", settings={"views": 2, "sigma": 0.3}, **request))
    return out


@pytest.fixture
def store(world: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(world, tmp_path / "s"))


def networks(files: dict[str, Path], *, gan: str = "gan", encoder: str = "encoder") -> Any:  # noqa: ANN401
    return {"gan": files[gan], "encoder": files[encoder]}


def plan_of(store: Path, name: str) -> Plan:
    return read_plan(StorePaths(store).view_set(name))


def args_of(store: Path, name: str) -> dict[str, Any]:
    return dict(plan_of(store, name).generator["args"])


def again(store: Path, name: str, files: dict[str, Path], **how: Any) -> Built:  # noqa: ANN401
    return refresh(store, name, networks(files, encoder="newer"), workers=1, **how)


def test_a_search_is_calibrated_on_the_new_encoder(files: dict[str, Path], store: Path) -> None:
    """With the inversion that it starts from, as a build of it in a new store would be."""
    built = again(store, "w-search", files)
    assert [each.plan.view_set for each in (*built.before, built)] == ["recon-r2", "w-search-r2"]
    assert built.plan.parent == {"view_set": "recon-r2", "plan_id": plan_of(store, "recon-r2").id}
    fresh = store.with_name("fresh")
    request: dict[str, Any] = {"source": str(files["source"]), "workers": 1, "shard_rows": 4}
    request |= {"out": fresh, "files": networks(files, encoder="newer")}
    build(BuildRequest(generator="recon", settings=QUICK, **request))
    build(BuildRequest(generator="w-search", settings={"views": 2, **QUICK}, **request))
    for name in ("recon", "w-search"):
        assert args_of(store, f"{name}-r2") == args_of(fresh, name)
    before = args_of(store, "w-search")
    for name in ("eps1", "eps2", "eps_min", "calibration"):
        assert args_of(store, "w-search-r2")[name] != before[name], name
    views = [
        np.stack(list(viewstore.open(each).view_sets[name]))
        for each, name in ((store, "w-search-r2"), (fresh, "w-search"))
    ]
    assert (views[0] != views[1]).any(axis=(1, 2, 3, 4)).all()  # the round salts the draws


def test_a_round_is_the_same_on_each_machine(files: dict[str, Path], store: Path) -> None:
    """Made at once, and in parts with the inversion first; shard by shard."""
    other = Path(shutil.copytree(store, store.with_name("other")))
    again(store, "w-perturb", files)
    with pytest.raises(ConfigError, match="'recon' must be refreshed before parts of 'w-perturb'"):
        again(other, "w-perturb", files, only=(0,))
    again(other, "recon", files)
    for shard in (1, 0):
        again(other, "w-perturb", files, only=(shard,))
    again(other, "w-search", files)
    again(store, "w-search", files)
    opened, same = viewstore.open(store), viewstore.open(other)
    assert opened.store_id == same.store_id
    assert list(opened.view_sets) == [
        *("recon", "recon-r2", "w-perturb", "w-perturb-r2", "w-search", "w-search-r2")
    ]
    first, second = (opened.view_sets[name] for name in ("w-perturb", "w-perturb-r2"))
    assert not (np.stack(list(first)) == np.stack(list(second))).all()
    assert args_of(store, "w-perturb-r2") == args_of(store, "w-perturb")


def test_what_was_given_is_kept(files: dict[str, Path], store: Path) -> None:
    for name, given in (("near", {"eps1": 0.4}), ("published", {"preset": "paper", "psi": 1.0})):
        settings = {"views": 3, **given}
        request = BuildRequest(
            generator="w-search",
            view_set=name,
            out=store,
            settings=settings,
            files=networks(files),
            only=(),
        )
        resolved = build(request).plan.generator["args"]
        found = make_settings("w-search", resolved).refreshed()
        assert {"eps1", "eps2", "eps_min", "calibration"} <= set(found)
        assert not {"height", "width", "code_shape"} & set(found)
    calibrated = args_of(store, "w-search")
    assert not {"eps1", "eps2"} & set(make_settings("w-search", calibrated).refreshed())
    apart = make_settings("w-search", {**calibrated, "eps2": 0.1}).refreshed()
    assert apart["eps2"] == 0.1


def test_an_inversion_takes_what_an_inverter_decided_again(
    files: dict[str, Path], world: Path
) -> None:
    recon = {**args_of(world, "recon"), "inverter": True, "max_steps": STEPS["inverter"]}
    found = make_settings("recon", recon).refreshed()
    assert not {"inverter", "max_steps", "shift_stop", "calibration", "code_shape"} & set(found)
    other = {**recon, "max_steps": STEPS_FROM_AVERAGE, "calibration": None}
    assert {"max_steps", "shift_stop"} <= set(make_settings("recon", other).refreshed())


def test_views_by_another_generator_start_from_its_own_latents(
    files: dict[str, Path], store: Path
) -> None:
    given = networks(files, gan="other")
    built = refresh(store, "w-perturb", given, workers=1)
    assert [each.plan.view_set for each in built.before] == ["recon-r2"]
    assert plan_of(store, "recon-r2").weights[0].sha256 == built.plan.weights[0].sha256
    once_more = refresh(store, "w-search", given, workers=1)
    assert once_more.before == ()
    assert once_more.plan.parent == built.plan.parent
