"""Seeds: whole numbers in [0, 2^53), refused at once wherever one is taken."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from viewstore.build.request import BuildRequest
from viewstore.errors import ConfigError
from viewstore.format.plan import checked_seed
from viewstore.generators.gan.inverter_training import InverterSettings
from viewstore.generators.gan.settings import GanSettings
from viewstore.loaders.settings import LoaderSettings


@pytest.mark.parametrize("seed", [-1, 2**53, 1.5, "3", None, True + 0.5])
def test_what_is_no_seed_is_refused(seed: object) -> None:
    with pytest.raises(ConfigError, match="seed must be"):
        checked_seed(seed)


@pytest.mark.parametrize("seed", [0, 2**53 - 1, np.int64(3), np.uint8(7)])
def test_whole_numbers_of_any_kind_are_seeds(seed: object) -> None:
    found = checked_seed(seed)
    assert type(found) is int
    assert found == seed


def test_whoever_takes_a_seed_checks_it(tmp_path: Path) -> None:
    """Each of these once ended in an OverflowError, or much later."""
    for make in (
        lambda seed: BuildRequest(generator="simclr", out=tmp_path, seed=seed),
        lambda seed: GanSettings(seed=seed),
        lambda seed: InverterSettings(seed=seed),
        lambda seed: LoaderSettings(batch_size=2, seed=seed),
    ):
        for seed in (-1, 2**53):
            with pytest.raises(ConfigError, match=r"seed must be in \[0, 2\^53\)"):
                make(seed)
        assert make(np.int64(3)).seed == 3
