"""Words and orders of the C module are those of numpy, and buffers of another size are refused."""

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from viewstore import randomness
from viewstore.loaders.plan.order import Permutation
from viewstore.randomness import BUILD, Op, Stream, compiled, words_with_numpy

needs_it = pytest.mark.skipif(compiled is None, reason="there was no C compiler")
SEEDS = st.integers(0, 2**53 - 1)


def test_it_is_compiled_wherever_a_compiler_is() -> None:
    headers = Path(sysconfig.get_path("include"), "Python.h")
    if shutil.which(sysconfig.get_config_var("CC").split()[0]) and headers.is_file():
        assert compiled is not None


@needs_it
@given(
    seed=SEEDS,
    count=st.integers(0, 600),
    blocks=st.integers(1, 4),
    first=st.sampled_from([0, 1, 9, 2**16]),
    op=st.sampled_from(list(Op)),
)
@example(seed=0, count=256, blocks=1, first=0, op=Op.FLIP)
@example(seed=0, count=257, blocks=2, first=0, op=Op.SEQUENTIAL)
def test_words_are_those_of_numpy(seed: int, count: int, blocks: int, first: int, op: Op) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, 2**63, count).astype(np.uint64)
    views = rng.integers(0, 2**16, count).astype(np.uint64)
    stream = Stream(seed, 3, BUILD)
    expected = np.empty((count, 4 * blocks), np.uint32)
    words_with_numpy(*stream.key, int(op), rows, views, first, blocks, expected)
    found = stream.words(op, rows, views, blocks=blocks, first_block=first)
    assert np.array_equal(found, expected)


@needs_it
@given(seed=SEEDS, epoch=st.integers(0, 2**40), size=st.integers(1, 3000), begin=st.integers(0, 50))
@example(seed=0, epoch=0, size=256, begin=0)
@example(seed=0, epoch=0, size=257, begin=0)
@example(seed=2**53 - 1, epoch=9, size=2**40 + 19, begin=5)
def test_orders_are_those_of_numpy(seed: int, epoch: int, size: int, begin: int) -> None:
    order = Permutation(size, seed, epoch)
    positions = np.arange(min(begin, size), min(size, 4000))[::-1]
    elements = order(positions)
    assert np.array_equal(elements, order._walk(positions))
    assert len(np.unique(elements)) == len(positions)
    grid = positions[: len(positions) // 2 * 2].reshape(-1, 2)
    assert np.array_equal(order(grid).reshape(-1), elements[: grid.size])


@needs_it
def test_buffers_of_another_size_are_refused() -> None:
    assert compiled is not None
    rows, out = np.zeros(5, np.uint64), np.zeros((5, 4), np.uint32)
    for given_rows, views, blocks, into in (
        (rows, rows[:4].copy(), 1, out),
        (rows, rows, 2, out),
        (rows, rows, 1, out[:4].copy()),
        (rows.view(np.uint8)[:39].copy(), rows, 1, out),
        (rows, rows, 0, out),
        (rows, rows, -1, out),
    ):
        with pytest.raises(ValueError, match="must"):
            compiled.words(1, 2, 3, given_rows, views, 0, blocks, into)
    assert not out.any()
    keys, numbers = np.zeros(8, "<u4"), np.arange(5)
    for size, some_keys, positions in (
        (4, keys, numbers),
        (1, keys, numbers),
        (9, np.zeros(65, "<u4"), numbers),
        (9, keys.view(np.uint8)[:31].copy(), numbers),
        (9, keys, np.array([-1])),
        (9, keys, numbers.view(np.uint8)[:39].copy()),
    ):
        before = positions.copy()
        with pytest.raises(ValueError, match="must"):
            compiled.permute(size, some_keys, positions)
        assert np.array_equal(positions, before)
    with pytest.raises(ValueError, match="contiguous"):
        compiled.words(1, 2, 3, rows[::2], rows[::2], 0, 1, out)


def test_without_the_module_numpy_draws_the_same() -> None:
    program = (
        "import sys; sys.modules['viewstore._draws'] = None\n"
        "import numpy as np; from viewstore import randomness as r\n"
        "from viewstore.loaders.plan.order import Permutation\n"
        "assert r.compiled is None\n"
        "words = r.Stream(3, 4).words(r.Op.CROP, np.arange(300), np.array([[0], [2]]), blocks=2)\n"
        "order = Permutation(1000, 3, 4)(np.arange(1000))\n"
        "sys.stdout.buffer.write(words.tobytes() + order.tobytes())\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    views = np.array([[0], [2]])
    words = Stream(3, 4).words(randomness.Op.CROP, np.arange(300), views, blocks=2)
    order = Permutation(1000, 3, 4)(np.arange(1000))
    assert ran.stdout == words.tobytes() + order.tobytes()
