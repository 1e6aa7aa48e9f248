"""Modules of torch.export: what they compute, and files that would have torch execute something."""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import resource
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.generators.scored.encoders import CLASSES, SIDE, classifier, export
from tests.hostile.fuzzing import CPU_SECONDS, MEMORY_BYTES, altered_records
from viewstore.errors import CheckpointError
from viewstore.generators.checkpoints.exported import is_archive, read_exported

Members = dict[str, bytes]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(tmp_path_factory.mktemp("pt2") / "net.pt2", classifier())


def members_of(path: Path) -> Members:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write(path: Path, members: Members, compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def edited(member: str, change: Callable[[Any], None]) -> Callable[[Members], None]:
    """Return what changes the JSON of a member."""

    def edit(members: Members) -> None:
        (name,) = (each for each in members if each.endswith(member))
        value = json.loads(members[name])
        change(value)
        members[name] = json.dumps(value).encode()

    return edit


def graph_of(program: Any) -> Any:  # noqa: ANN401
    return program["graph_module"]["graph"]


def target(name: str) -> Callable[[Members], None]:
    return edited("model.json", lambda p: graph_of(p)["nodes"][0].update(target=name))


def argument(value: dict[str, Any]) -> Callable[[Members], None]:
    return edited("model.json", lambda p: graph_of(p)["nodes"][0]["inputs"][0].update(arg=value))


def first_size(value: dict[str, Any]) -> Callable[[Members], None]:
    def change(program: Any) -> None:  # noqa: ANN401
        next(iter(graph_of(program)["tensor_values"].values()))["sizes"][0] = value

    return edited("model.json", change)


def payload(**changes: object) -> Callable[[Members], None]:
    def change(config: Any) -> None:  # noqa: ANN401
        next(iter(config["config"].values())).update(changes)

    return edited("weights_config.json", change)


def in_spec(spec: object) -> Callable[[Members], None]:
    def change(program: Any) -> None:  # noqa: ANN401
        (call,) = (c for c in program["graph_module"]["module_call_graph"] if c["fqn"] == "")
        call["signature"]["in_spec"] = spec

    return edited("model.json", change)


def emptied(members: Members) -> None:
    members["net/data/weights/weight_0"] = b""


def second_model(members: Members) -> None:
    members["net/models/other.json"] = members["net/models/model.json"]


EVIL = "__import__('pathlib').Path('executed').touch()"
DEFAULTDICT = {
    "type": "collections.defaultdict",
    "context": json.dumps({"default_factory_module": "antigravity", "default_factory_name": "fly"}),
    "children_spec": [],
}
HOSTILE: dict[str, tuple[Callable[[Members], None], str]] = {
    "an op that writes": (target("torch.ops.aten.save.default"), "aten.save.default is not known"),
    "an op that maps files": (target("torch.ops.aten.from_file.default"), "is not known here"),
    "an op that draws": (target("torch.ops.aten.bernoulli.default"), "is not known here"),
    "a function by name": (target("torch.hub.load"), "the op torch.hub.load is not known"),
    "a function of python": (target("builtins.exec"), "the op builtins.exec is not known"),
    "an attribute": (target("_operator.attrgetter"), "_operator.attrgetter is not known"),
    "text as an expression": (first_size({"as_expr": {"expr_str": EVIL}}), "holds the expression"),
    "a tower of powers": (
        first_size({"as_expr": {"expr_str": "9**9**9**9"}}),
        "holds the expression",
    ),
    "an operator": (argument({"as_operator": "os.system"}), "argument of kind as_operator"),
    "a graph": (argument({"as_graph": {}}), "argument of kind as_graph"),
    "an object": (argument({"as_custom_obj": {}}), "argument of kind as_custom_obj"),
    "a text": (argument({"as_string": "/etc/passwd"}), "the text '/etc/passwd'"),
    "two arguments in one": (argument({"as_int": 1, "as_graph": {}}), "argument of kind None"),
    "a pickled weight": (payload(use_pickle=True), "is pickled"),
    "a weight elsewhere": (payload(path_name="../../../x"), "is not in the file"),
    "a weight that is not there": (payload(path_name="weight_99"), "is not in the file"),
    "a weight without numbers": (emptied, "has no numbers"),
    "a module that is imported": (in_spec(json.dumps([1, DEFAULTDICT])), "collections.defaultdict"),
    "no inputs": (in_spec("nothing"), "does not say what it takes"),
    "two modules": (second_model, "it holds 2 modules"),
    "no graph": (edited("model.json", lambda p: p.pop("graph_module")), "an object is missing"),
    "no nodes": (edited("model.json", lambda p: graph_of(p).pop("nodes")), "a list is missing"),
    "weights that change": (
        edited(
            "model.json",
            lambda p: p["graph_module"]["signature"]["output_specs"].append(
                {"buffer_mutation": {}}
            ),
        ),
        "changes its own weights",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_might_execute_something_is_refused(
    good: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.export, "load", lambda file: pytest.fail("torch saw it"))
    change, expected = HOSTILE[name]
    members = members_of(good)
    change(members)
    with pytest.raises(CheckpointError, match=expected) as caught:
        read_exported(write(tmp_path / "bad.pt2", members))
    assert "torch.export.export(module.eval().cpu()" in str(caught.value.fix)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.pt2"]


class Touches:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("executed"),))


def test_pickles_and_guards_of_a_file_are_never_looked_at(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch would unpickle the sample inputs, and run the guards as code."""
    monkeypatch.chdir(tmp_path)
    members = members_of(good)
    (inputs,) = (name for name in members if "/sample_inputs/" in name)
    members[inputs] = pickle.dumps(Touches())
    edited("model.json", lambda program: program.update(guards_code=[EVIL]))(members)
    read = read_exported(write(tmp_path / "bad.pt2", members))
    images = torch.rand(3, 3, SIDE, SIDE)
    assert torch.equal(read.outputs(images)["feature"], classifier()(images)["feature"])
    assert not (tmp_path / "executed").exists()


def test_torch_itself_would_execute_them(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: why a file is written anew. Should this fail, the decision can be looked at."""
    monkeypatch.chdir(tmp_path)
    members = members_of(good)
    (inputs,) = (name for name in members if "/sample_inputs/" in name)
    members[inputs] = pickle.dumps(Touches())
    with pytest.raises(Exception):  # noqa: B017, PT011  # a path is no tuple of inputs
        torch.export.load(write(tmp_path / "bad.pt2", members))
    assert (tmp_path / "executed").exists()


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_damage_anywhere_is_our_error_or_none(good: Path, data: st.DataObject) -> None:
    raw = bytearray(good.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.just(len(raw)) | st.integers(0, len(raw)))
    path = good.with_name("damaged.pt2")
    path.write_bytes(raw[:cut])
    with contextlib.suppress(CheckpointError):
        read_exported(path)


RECORDS = ("model.json", "weights_config.json", "constants_config.json")


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_records_that_say_something_else_are_our_error_or_none(
    good: Path, data: st.DataObject
) -> None:
    """What passes the checks reaches torch, whose errors are many; none of them gets out."""
    members = members_of(good)
    ending = data.draw(st.sampled_from(RECORDS))
    (name,) = (each for each in members if each.endswith(ending))
    members[name] = data.draw(altered_records([members[name]]))
    path = write(good.with_name("altered.pt2"), members)
    began, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with contextlib.suppress(CheckpointError):
        read_exported(path).outputs(torch.zeros(2, 3, SIDE, SIDE))
    assert time.process_time() - began < CPU_SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MEMORY_BYTES >> 10


def test_compressed_members_are_refused(good: Path, tmp_path: Path) -> None:
    bad = write(tmp_path / "bomb.pt2", members_of(good), zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match="a member is compressed"):
        read_exported(bad)


def test_outputs_are_those_of_the_module(good: Path, tmp_path: Path) -> None:
    read, network = read_exported(good), classifier()
    assert (read.input_size, read.input_views) == ((SIDE, SIDE), None)
    for count in (1, 4, 9):
        images = torch.rand(count, 3, SIDE, SIDE)
        found, expected = read.outputs(images), network(images)
        assert {name: each.shape[1] for name, each in found.items()}["logits"] == CLASSES
        assert all(torch.equal(found[name], expected[name]) for name in ("feature", "logits"))
        assert not any(each.requires_grad for each in found.values())
    alone = read_exported(export(tmp_path / "a.pt2", classifier(logits=False), views=6))
    assert alone.input_views == 6
    assert list(alone.outputs(torch.rand(6, 3, SIDE, SIDE))) == ["feature"]
    with pytest.raises(CheckpointError, match=r"cannot take \[5, 3, 16, 16\]"):
        alone.outputs(torch.rand(5, 3, SIDE, SIDE))


class Transformer(nn.Module):
    """One block of attention over patches."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 4, 4)
        self.token = nn.Parameter(torch.ones(1, 1, 16))
        self.block = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, activation="gelu")

    def forward(self, x: Tensor) -> Tensor:
        patches = self.patches(x).flatten(2).transpose(1, 2)
        return self.block(torch.cat([self.token.expand(len(x), -1, -1), patches], 1))[:, 0]


@pytest.mark.parametrize("views", [None, 4])
def test_distances_are_measured_by_its_unit_features(tmp_path: Path, views: int | None) -> None:
    """For any number of images of any size, gray too, with a gradient for each image."""
    plain = classifier()
    encoder = read_exported(export(tmp_path / "net.pt2", plain, views=views))
    for number in (1, 4, 6):
        images = torch.rand(number, 3, SIDE, SIDE, requires_grad=True)
        features = encoder(images)
        expected = nn.functional.normalize(plain(images)["feature"], dim=1)
        torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)
        (found,) = torch.autograd.grad(features[:, 0].sum(), images)
        (wanted,) = torch.autograd.grad(expected[:, 0].sum(), images)
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-5)
    gray = torch.rand(3, 1, 40, 24)
    resized = nn.functional.interpolate(
        gray, (SIDE, SIDE), mode="bilinear", align_corners=False, antialias=True
    ).expand(-1, 3, -1, -1)
    torch.testing.assert_close(encoder(gray), encoder(resized), rtol=1e-4, atol=1e-5)


def test_attention_is_known(tmp_path: Path) -> None:
    network = Transformer().eval()
    read = read_exported(export(tmp_path / "t.pt2", network, views=2))
    images = torch.rand(2, 3, SIDE, SIDE)
    with torch.no_grad():
        assert torch.allclose(read.outputs(images)["feature"], network(images), atol=1e-5)


class Gives(nn.Module):
    """Gives what it was told to, whatever it sees."""

    def __init__(self, gives: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.gives = gives

    def forward(self, x: Tensor) -> Any:  # noqa: ANN401
        return self.gives(x)


@pytest.mark.parametrize(
    ("gives", "expected"),
    [
        (lambda x: (x.mean((2, 3)), x), "neither features"),
        (lambda x: {"logits": x.mean((2, 3))}, "neither features"),
        (lambda x: x, "its feature must be floats"),
        (lambda x: x.mean((1, 2, 3)), "its feature must be floats"),
        (lambda x: {"feature": x.mean((2, 3)), "logits": x.mean(3)}, "its logits must be floats"),
    ],
)
def test_a_module_that_gives_something_else_is_refused(
    tmp_path: Path, gives: Callable[[Tensor], Any], expected: str
) -> None:
    read = read_exported(export(tmp_path / "g.pt2", Gives(gives).eval(), views=2))
    with pytest.raises(CheckpointError, match=expected):
        read.outputs(torch.rand(2, 3, SIDE, SIDE))


def test_modules_of_another_input_or_mode_are_refused(tmp_path: Path) -> None:
    training = torch.export.export(classifier().train(), (torch.zeros(2, 3, SIDE, SIDE),))
    gray = torch.export.export(Gives(lambda x: x.mean((2, 3))), (torch.zeros(2, 1, SIDE, SIDE),))
    for program, expected in (
        (training, "training mode"),
        (gray, r"it takes \[2, 1, 16, 16\], not images"),
    ):
        torch.export.save(program, tmp_path / "bad.pt2")
        with pytest.raises(CheckpointError, match=expected):
            read_exported(tmp_path / "bad.pt2")


def test_other_archives_are_told_from_modules(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(3)}, tmp_path / "weights.pt")
    assert is_archive(tmp_path / "weights.pt")
    with pytest.raises(CheckpointError, match="it holds 0 modules, not 1"):
        read_exported(tmp_path / "weights.pt")
    (tmp_path / "text").write_bytes(io.BytesIO(b"PK").getvalue())
    assert not is_archive(tmp_path / "text")
