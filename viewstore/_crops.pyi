# What crops.c gives to Python.
from collections.abc import Sequence

from viewstore.colours import Pixels
from viewstore.crops import Crop

def cut(image: Pixels, crops: Sequence[Crop]) -> None: ...
