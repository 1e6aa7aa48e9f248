"""`--shard`: which slice a process is, by what it was given or by a scheduler's variables."""

from __future__ import annotations

import pytest

from viewstore.build.slices import SCHEDULERS, parse_slice, shards_of, slice_by, slices_of
from viewstore.errors import ConfigError

SLURM = {
    "SLURM_ARRAY_TASK_ID": "5",
    "SLURM_ARRAY_TASK_MIN": "3",
    "SLURM_ARRAY_TASK_MAX": "6",
    "SLURM_ARRAY_TASK_COUNT": "4",
}
WHOLE = {
    "ours": ({"VIEWSTORE_SHARD": "3/8"}, (3, 8)),
    "slurm": (SLURM, (2, 4)),
    "kubernetes": ({"JOB_COMPLETION_INDEX": "0", "VIEWSTORE_SHARDS": "2"}, (0, 2)),
    "aws": ({"AWS_BATCH_JOB_ARRAY_INDEX": "1", "VIEWSTORE_SHARDS": "2"}, (1, 2)),
    "torchrun": ({"RANK": "7", "WORLD_SIZE": "8"}, (7, 8)),
}
HALVES = [
    ({name: text for name, text in set_.items() if name != missing}, missing)
    for set_, _ in WHOLE.values()
    for missing in set_
    if len(set_) > 1 and (missing != "AWS_BATCH_JOB_ARRAY_INDEX")
]


@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_set_says_the_slice(name: str) -> None:
    environment, expected = WHOLE[name]
    found, said = slice_by({"HOME": "/", "SLURM_JOB_ID": "4", **environment})
    assert found == expected
    assert said.startswith(f"slice {expected[0]} of {expected[1]}, by ")
    assert all(f"{key}={text}" in said for key, text in environment.items())


def test_every_row_of_the_table_is_tried() -> None:
    assert [set(each.names) for each in SCHEDULERS] == [set(each) for each, _ in WHOLE.values()]


def test_the_first_whole_set_counts() -> None:
    environment: dict[str, str] = {}
    for each, expected in reversed(WHOLE.values()):
        environment |= each
        assert slice_by(environment)[0] == expected


@pytest.mark.parametrize(("half", "missing"), HALVES)
def test_half_a_set_is_refused_and_says_what_is_missing(half: dict[str, str], missing: str) -> None:
    for environment in (half, half | {missing: ""}):
        with pytest.raises(ConfigError, match=f"{missing} is not set") as caught:
            slice_by(environment)
        assert caught.value.exit_code == 2
        assert all(f"{key}={text}" in (caught.value.where or "") for key, text in half.items())


def test_half_a_set_before_a_whole_one_is_refused() -> None:
    whole = WHOLE["torchrun"][0]
    with pytest.raises(ConfigError, match="VIEWSTORE_SHARDS is not set"):
        slice_by({"JOB_COMPLETION_INDEX": "0", **whole})
    with pytest.raises(ConfigError, match="JOB_COMPLETION_INDEX is not set"):
        slice_by({"VIEWSTORE_SHARDS": "2", **whole})


def test_what_comes_behind_a_whole_set_is_not_looked_at() -> None:
    assert slice_by({**SLURM, "RANK": "0"})[0] == (2, 4)


def test_without_a_set_all_variables_are_named() -> None:
    with pytest.raises(ConfigError) as caught:
        slice_by({"HOME": "/", "RANK": ""})
    assert all(name in (caught.value.why or "") for each in SCHEDULERS for name in each.names)
    assert "VIEWSTORE_SHARD=I/N" in (caught.value.fix or "")


def test_a_slurm_array_with_gaps_is_refused_with_the_fix() -> None:
    gaps = SLURM | {"SLURM_ARRAY_TASK_MIN": "3", "SLURM_ARRAY_TASK_MAX": "7"}
    with pytest.raises(ConfigError, match="Slurm array with gaps") as caught:
        slice_by(gaps | {"SLURM_ARRAY_TASK_COUNT": "2"})
    assert '--shard "$SLURM_ARRAY_TASK_ID/N"' in (caught.value.fix or "")


@pytest.mark.parametrize(
    "environment",
    [
        {"VIEWSTORE_SHARD": "4/4"},
        {"VIEWSTORE_SHARD": "four"},
        {"RANK": "2", "WORLD_SIZE": "2"},
        {"RANK": "-1", "WORLD_SIZE": "2"},
        {"RANK": "0", "WORLD_SIZE": "0"},
        {"RANK": "0", "WORLD_SIZE": "9" * 5000},
        SLURM | {"SLURM_ARRAY_TASK_ID": "2"},
        SLURM | {"SLURM_ARRAY_TASK_ID": "7"},
        SLURM | {"SLURM_ARRAY_TASK_ID": "3.0"},
    ],
)
def test_values_that_say_no_slice_are_refused(environment: dict[str, str]) -> None:
    with pytest.raises(ConfigError) as caught:
        slice_by(environment)
    assert any(name in f"{caught.value} {caught.value.where}" for name in environment)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"RANK": "9", "WORLD_SIZE": "4"}, "there is no slice 9 of 4: they are numbered 0 to 3"),
        ({"RANK": "0", "WORLD_SIZE": "0"}, "there is no slice 0 of 0: of 0 there is none"),
        (SLURM | {"SLURM_ARRAY_TASK_ID": "7"}, "there is no slice 4 of 4: they are numbered"),
    ],
)
def test_a_slice_that_is_none_is_said_in_words(environment: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        slice_by(environment)
    assert str(caught.value).startswith(said)
    named = (f"{name}={text}" for name, text in environment.items() if "MAX" not in name)
    assert caught.value.where is not None
    assert sorted(caught.value.where.split(", ")) == sorted(named)


def test_slices_are_found_by_the_shards_that_they_have() -> None:
    assert slices_of([], 4) == []
    assert slices_of([3, 7, 8], 4) == [0, 3]
    assert slices_of(range(9), 4) == [0, 1, 2, 3]
    assert slices_of([2, 5], 1) == [0]
    assert slices_of([2, 5], 100) == [2, 5]


@pytest.mark.parametrize("count", [1, 3, 9, 20])
def test_slices_have_each_shard_once(count: int) -> None:
    parts = [list(shards_of((index, count), 9)) for index in range(count)]
    assert sorted(shard for part in parts for shard in part) == list(range(9))
    for index, part in enumerate(parts):
        assert slices_of(part, count) == ([index] if part else [])


def test_a_slice_is_given_as_i_of_n() -> None:
    assert parse_slice("1/4") == (1, 4)
    for text in ("4/4", "1", "/", "-1/2", "1/2/3", "٣/8", "0/" + "9" * 5000):
        with pytest.raises(ConfigError, match="--shard must be I/N"):
            parse_slice(text)
