"""Runs under a Python that has stock ffcv, without viewstore: reads and writes `.beton` files.

One process imports ffcv for all tests, which costs as much as using it does. It takes commands
from stdin, a JSON list a line, and a fork of it answers each: {"printed": text, "error": traceback}
  ["read", FILE, OUT.npz]          every field of every sample, default pipelines
  ["train", FILE, OUT.npz]         crop, flip and label pipelines of training
  ["write", IN.npz, FILE, MODE]    IN: images [N, H, W, 3] and labels [N]
  ["write-all", IN.npz, FILE]      a field of every kind, two workers
  ["script", SCRIPT, ARGUMENT ..]  a script, as if it were started with these arguments
`read` and `train` do so with the page cache and without: arrays 1/FIELD and 0/FIELD.
"""

import contextlib
import io
import json
import multiprocessing
import runpy
import sys
import traceback
import warnings
from collections.abc import Callable

warnings.simplefilter("ignore")  # stock ffcv warns of what numba and torch have become since

import numpy as np  # noqa: E402
import torch  # noqa: E402
from ffcv import fields  # noqa: E402
from ffcv.fields.basics import IntDecoder  # noqa: E402
from ffcv.fields.rgb_image import CenterCropRGBImageDecoder, SimpleRGBImageDecoder  # noqa: E402
from ffcv.loader import Loader, OrderOption  # noqa: E402
from ffcv.reader import Reader  # noqa: E402
from ffcv.transforms import RandomHorizontalFlip, Squeeze, ToTensor, ToTorchImage  # noqa: E402
from ffcv.writer import DatasetWriter  # noqa: E402

BATCH = 64
SECONDS = 240  # ffcv waits for ever once its own thread has failed


def load(path: str, out: str, pipelines_of: Callable[[Reader], dict]) -> None:
    """Save what a loader delivers, by field, samples in the order of the file."""
    reader = Reader(path)
    arrays = {}
    for os_cache in (True, False):
        pipelines = pipelines_of(reader)
        names = [name for name in reader.handlers if pipelines.get(name, ()) is not None]
        loader = Loader(
            path,
            batch_size=BATCH,
            num_workers=1,
            os_cache=os_cache,
            order=OrderOption.SEQUENTIAL,
            pipelines=pipelines,
            drop_last=False,
        )
        batches = [[np.array(value) for value in values] for values in loader]
        for name, column in zip(names, zip(*batches, strict=True), strict=True):
            arrays[f"{int(os_cache)}/{name}"] = np.concatenate(column)
    np.savez(out, **arrays)


def read(path: str, out: str) -> None:
    load(path, out, lambda reader: {})


def train(path: str, out: str) -> None:
    load(path, out, training_pipelines)


def training_pipelines(reader: Reader) -> dict:
    crop = CenterCropRGBImageDecoder((8, 8), 0.5)
    keep = {
        "v0": [crop, RandomHorizontalFlip(1.0), ToTensor(), ToTorchImage()],
        "v1": [SimpleRGBImageDecoder(), ToTensor(), ToTorchImage()],
        "label": [IntDecoder(), ToTensor(), Squeeze()],
    }
    return {name: keep.get(name) for name in reader.handlers}


def write(source: str, path: str, mode: str) -> None:
    np.random.seed(0)  # noqa: NPY002 ("proportion" draws from the global generator)
    arrays = np.load(source)
    samples = list(zip(arrays["images"], arrays["labels"].tolist(), strict=True))
    columns = {"image": fields.RGBImageField(write_mode=mode), "label": fields.IntField()}
    DatasetWriter(path, columns, num_workers=1).from_indexed_dataset(samples)


def write_all(source: str, path: str) -> None:
    arrays = np.load(source)
    samples = [
        (image, label, label / 3, {"n": label}, arrays["texts"][label], image[0], torch.ones(2, 3))
        for image, label in zip(arrays["images"], arrays["labels"].tolist(), strict=True)
    ]
    columns = {
        "image": fields.RGBImageField(),
        "label": fields.IntField(),
        "third": fields.FloatField(),
        "facts": fields.JSONField(),
        "text": fields.BytesField(),
        "row": fields.NDArrayField(np.dtype("uint8"), arrays["images"].shape[2:]),
        "ones": fields.TorchTensorField(torch.float32, (2, 3)),
    }
    DatasetWriter(path, columns, num_workers=2).from_indexed_dataset(samples)


def script(path: str, *arguments: str) -> None:
    sys.argv = [path, *arguments]
    runpy.run_path(path, run_name="__main__")


COMMANDS = {"read": read, "train": train, "write": write, "write-all": write_all, "script": script}


def answer(command: str, *arguments: str) -> None:
    printed, error = io.StringIO(), None
    try:
        with contextlib.redirect_stdout(printed):
            COMMANDS[command](*arguments)
    except Exception:
        error = traceback.format_exc()
    say(printed.getvalue(), error)


def say(printed: str, error: str | None) -> None:
    print(json.dumps({"printed": printed, "error": error}), flush=True)


def main() -> None:
    for line in sys.stdin:
        fork = multiprocessing.get_context("fork").Process(target=answer, args=json.loads(line))
        fork.start()
        fork.join(SECONDS)
        if fork.exitcode is None:
            fork.kill()
            fork.join()
        if fork.exitcode:
            say("", f"ffcv ended with {fork.exitcode}, or was ended after {SECONDS} s")


if __name__ == "__main__":
    main()
