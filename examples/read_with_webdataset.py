"""Read a view set with stock webdataset, without viewstore's loader.

Usage: python examples/read_with_webdataset.py STORE VIEW_SET
"""

import sys

import numpy as np
import webdataset

import viewstore


def main(path: str, view_set: str) -> None:
    urls = viewstore.open(path).urls(view_set)
    samples = 0
    views = 0
    for sample in webdataset.WebDataset(urls, shardshuffle=False).decode("rgb8"):
        pictures = sample.get("views.npy")  # raw: one uint8 array [V, H, W, C]
        if pictures is None:  # jpg, png: one member for each view
            pictures = np.stack([sample[name] for name in sorted(sample) if name[0] == "v"])
        samples += 1
        views += len(pictures)
    print(f"{samples} samples, {views} views of {pictures.shape[1:]}")


if __name__ == "__main__":
    main(*sys.argv[1:])
