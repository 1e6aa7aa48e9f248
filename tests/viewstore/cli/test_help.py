"""Help texts: whole sentences, examples that parse, every setting of every generator."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
from collections.abc import Iterator

import click
import pytest

from tests.viewstore.commands import invoke, run
from viewstore.cli.main import root
from viewstore.cli.settings_help import attribute_docs
from viewstore.errors import ConfigError, counted
from viewstore.generators import GENERATORS, settings_class
from viewstore.generators.gan.inverter_training import InverterSettings
from viewstore.generators.gan.settings import GanSettings
from viewstore.train.loop.config import PretrainConfig
from viewstore.train.loop.layers import flat
from viewstore.train.methods.table import METHODS
from viewstore.train.strategies.standard import Standard


def commands(group: click.Group, name: str) -> Iterator[tuple[str, click.Command]]:
    """Yield the commands below a group by what a user types."""
    context = click.Context(group)
    for word in group.list_commands(context):
        found = group.get_command(context, word)
        assert found is not None
        if isinstance(found, click.Group):
            yield from commands(found, f"{name} {word}")
        else:
            yield f"{name} {word}", found


ALONE = {field.name for field in dataclasses.fields(Standard)}
COMMANDS = dict(commands(root, "viewstore"))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_explained_in_a_sentence(name: str) -> None:
    context = click.Context(COMMANDS[name], info_name=name)
    for parameter in COMMANDS[name].params:
        if isinstance(parameter, click.Option) and not parameter.hidden:
            shown = str(parameter.get_help_record(context))
            said = re.sub(r"\s*\[[^]]*\]$", "", parameter.help or "")
            assert re.match(r"[A-Z].*\.$", said), (parameter.name, said)
            assert "None" not in shown, parameter.name
            assert len(said.split()) > 2, (parameter.name, said)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_help_has_an_example_that_parses(name: str) -> None:
    epilog = COMMANDS[name].epilog or ""
    example = epilog.partition("Example:\n")[2].strip()
    assert example.startswith(name + " ")
    context = COMMANDS[name].make_context(name, shlex.split(example.removeprefix(name)))
    assert not context.args


@pytest.mark.parametrize("name", GENERATORS)
def test_every_setting_of_a_generator_is_listed_with_default_and_meaning(name: str) -> None:
    answer = json.loads(invoke("build", "--generator", name, "--help-settings", "--json").stdout)
    settings = answer["result"]["settings"]
    fields = dataclasses.fields(settings_class(name))  # type: ignore[arg-type]
    assert list(settings) == [field.name for field in fields]
    for setting, fact in settings.items():
        assert re.match(r"[A-Z].*\.$", fact["meaning"]), setting
    text = invoke("build", "--generator", name, "--help-settings").output
    if "views" in settings:
        default = settings["views"]["default"]
        assert f"views  [default: {'automatic' if default is None else default}]" in text


def test_defaults_are_those_of_the_generator_not_of_its_class() -> None:
    text = invoke("build", "--generator", "dino", "--help-settings").output
    assert "policy  [default: dino]" in text
    assert "automatic" in text


def test_an_unknown_generator_has_no_settings() -> None:
    with pytest.raises(ConfigError, match="did you mean 'w-search'"):
        invoke("build", "--generator", "w-serch", "--help-settings")


def test_without_a_generator_the_generators_are_listed_with_what_they_make() -> None:
    text = invoke("build", "--help-settings").output
    for name, row in GENERATORS.items():
        assert re.search(rf"^  {name} +{re.escape(row.makes)}$", text, re.MULTILINE)
    answer = json.loads(invoke("build", "--help-settings", "--json").stdout)
    assert list(answer["result"]["generators"]) == list(GENERATORS)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "strategy", ["standard", "hvp", "hvp,a2", "dssl,a2", "hexa", "a1", "graded"]
)
def test_every_setting_of_a_training_is_listed_and_may_be_set(method: str, strategy: str) -> None:
    asked = ["train", "--help-settings", "--method", method, "--strategy", strategy]
    settings = json.loads(invoke(*asked, "--json").stdout)["result"]["settings"]
    for name, fact in settings.items():
        assert len(fact["meaning"].split()) > 1, name
        assert fact["meaning"].endswith("."), name
    given = {name: fact["default"] for name, fact in settings.items() if name != "views"}
    named = {"method.name": method, "strategy.name": strategy, "views": ["a", "b"], "epochs": 1}
    config = PretrainConfig.of(given | named)
    found = {*settings, *named}
    if strategy != "standard":  # the chooser that takes all views is there, and is not named
        found |= {name for name in flat(config.to_json()) if name.split(".")[-1] in ALONE}
    assert set(flat(config.to_json())) == found
    assert config == PretrainConfig.of(named)  # all that is listed are the defaults


def test_the_settings_of_a_training_are_told_with_their_options() -> None:
    text = invoke(
        "train", "--method", "moco-v2", "--strategy", "a2,graded", "--help-settings"
    ).output
    assert "method.temperature, --temperature  [default: 0.1]" in text
    assert "strategy.anchors, --anchors  [default: both]" in text
    assert "strategy.lambda  [default: 0.5]" in text
    assert "network.projector, --projector  [default: [2048, 128]]" in text
    assert "optim.milestones  [default: []]" in text
    assert "views, --views  [default: none]" in text
    assert "strategy.n_views" not in text
    text = invoke("train", "--preset", "dino-cifar10", "--help-settings").output
    assert text.startswith("Settings of dino with strategy standard,")
    assert "optim.clip  [default: 3.0]" in text
    assert "network.patch  [default: 4]" in text
    with pytest.raises(ConfigError, match="did you mean 'simsiam'"):
        invoke("train", "--method", "simsiamm", "--help-settings")


def test_a_training_without_a_folder_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "train", "views")
    assert (code, "Missing option '-o' / '--out'" in err) == (2, True)


def test_a_build_without_a_generator_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "build")
    assert (code, "Missing option '--generator'" in err) == (2, True)


def test_the_help_of_build_names_every_generator() -> None:
    said = "".join(invoke("build", "--help").output.split())  # lines may end within a name
    assert f"whatmakestheviews:{','.join(GENERATORS)}." in said


def test_the_help_of_gan_train_names_every_other_setting() -> None:
    said = COMMANDS["viewstore gan train"].help or ""
    words = set(re.findall(r"\w+", said)) | {"kimg", "steps", "batch", "seed"}
    for kind in (GanSettings, InverterSettings):
        assert {field.name for field in dataclasses.fields(kind)} <= words


def test_attributes_of_a_docstring_may_share_a_meaning_and_take_lines() -> None:
    class Kind:
        """First line.

        Attributes:
            a, b: Both: say
                two lines.
            c: One.

        More text.
        """

    assert attribute_docs(Kind) == {
        "a": "Both: say two lines.", "b": "Both: say two lines.", "c": "One."
    }  # fmt: skip


def test_one_is_singular() -> None:
    assert [counted(number, "fault") for number in (0, 1, 2)] == ["0 faults", "1 fault", "2 faults"]
