# What crops.c gives to Python.
from collections.abc import Sequence

from viewstore.images.colours import Numbers, Pixels

def cut(image: Pixels, crops: Sequence[tuple[Pixels, Numbers, bool, bool]]) -> None: ...
