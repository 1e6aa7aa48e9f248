# What draws.c gives to Python.
from typing import Any

import numpy as np
from numpy.typing import NDArray

def words(
    low: int,
    high: int,
    op: int,
    rows: NDArray[np.uint64],
    views: NDArray[np.uint64],
    first_block: int,
    blocks: int,
    out: NDArray[np.uint32],
) -> None: ...
def permute(size: int, keys: NDArray[Any], numbers: NDArray[np.int64]) -> None: ...
