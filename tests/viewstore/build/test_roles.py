"""The table of roles: options, packaged files, and what fits together."""

from pathlib import Path

import pytest

from viewstore.build.roles import (
    NAMED,
    NETWORKS,
    ROLES,
    check_unneeded,
    files_needed,
    load_model,
    load_models,
    named,
    networks,
    packaged_weights,
    weight_file,
)
from viewstore.cli.options import weight_files
from viewstore.errors import ConfigError


def test_a_users_file_goes_before_the_packaged_one() -> None:
    own = Path("own.safetensors")
    for role in NETWORKS:
        packaged = packaged_weights(role) if ROLES[role].packaged else None
        assert weight_file(role, {}) == packaged
        assert weight_file(role, {role: own}) == own


def test_an_encoder_does_for_a_scorer_where_no_encoder_is_taken() -> None:
    """A repair is given the files of several generators; each takes its own."""
    encoder, scorer = Path("encoder"), Path("scorer")
    assert files_needed(["scorer"], {"encoder": encoder}) == {"scorer": encoder}
    both = {"encoder": encoder, "scorer": scorer}
    assert files_needed(["scorer"], both) == {"scorer": scorer}
    assert files_needed(["encoder"], both) == {"encoder": encoder}
    assert files_needed(["encoder", "scorer"], {"encoder": encoder}) == {"encoder": encoder}
    check_unneeded("hard", ["scorer"], {"encoder": encoder})
    with pytest.raises(ConfigError, match="--scorer and --encoder are both given: hard scores by"):
        check_unneeded("hard", ["scorer"], both)


def test_a_users_gan_has_no_packaged_inverter() -> None:
    files = {"gan": Path("own.safetensors")}
    assert weight_file("inverter", files) is None
    assert weight_file("encoder", files) == packaged_weights("encoder")
    assert load_models(["inverter"], files, []) == {}


def test_the_log_of_a_training_has_an_option_and_is_no_network() -> None:
    assert set(NAMED) - set(NETWORKS) == {"selection"}
    assert named(["selection", "listing", "gan"]) == ("selection", "gan")
    assert networks(["selection", "listing", "gan"]) == ("gan",)
    assert load_models(["selection"], {}, []) == {}


def test_options_that_are_not_given_name_no_file() -> None:
    given = Path("x.safetensors")
    options: dict[str, Path | None] = dict.fromkeys(NAMED)
    assert weight_files(options | {"encoder": given}) == {"encoder": given}


@pytest.mark.parametrize("role", list(NAMED))
def test_a_missing_file_names_its_option(role: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"no {role} file") as caught:
        load_model(role, tmp_path / "nothing")
    assert caught.value.fix == f"check --{role}"
