"""Read an exported `.beton` with stock ffcv, as a training script does, without viewstore.

Usage: python examples/read_with_ffcv.py FILE
"""

import sys
import warnings

warnings.simplefilter("ignore")  # ffcv warns of what numba and torch have become since

from ffcv.fields.basics import IntDecoder  # noqa: E402
from ffcv.fields.rgb_image import RandomResizedCropRGBImageDecoder  # noqa: E402
from ffcv.loader import Loader, OrderOption  # noqa: E402
from ffcv.reader import Reader  # noqa: E402
from ffcv.transforms import RandomHorizontalFlip, Squeeze, ToTensor, ToTorchImage  # noqa: E402


def pictures(side: int) -> list:
    """A pipeline of its own for each field and loader: ffcv keeps state in its operations."""
    crop = RandomResizedCropRGBImageDecoder((side, side))
    return [crop, RandomHorizontalFlip(), ToTensor(), ToTorchImage()]


def main(path: str) -> None:
    pipelines = dict.fromkeys(Reader(path).handlers)  # None: a field that is not read
    views = [name for name in pipelines if name[0] == "v" and name[1:].isdigit()]
    pipelines |= {view: pictures(16) for view in views}
    pipelines |= {"label": [IntDecoder(), ToTensor(), Squeeze()]}
    loader = Loader(
        path,
        batch_size=32,
        num_workers=1,
        order=OrderOption.RANDOM,
        seed=0,
        os_cache=True,  # False reads pages itself, for files larger than memory
        pipelines=pipelines,
        drop_last=False,
    )
    samples = 0
    labels = set()
    for batch in loader:  # a tuple in the order of the fields; its memory is used again
        *images, label = batch
        samples += len(label)
        labels |= set(label.tolist())
    shape = tuple(images[0].shape[1:])
    print(f"{samples} samples, {len(images)} views of {shape}, {len(labels)} labels")


if __name__ == "__main__":
    main(*sys.argv[1:])
