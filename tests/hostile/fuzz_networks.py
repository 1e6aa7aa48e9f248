"""Files of networks and checkpoints, with hostile bytes."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import torch
from hypothesis import strategies as st

from tests.generators.gan.test_training import TINY
from tests.generators.latent_world import small_encoder, small_gan, source_images
from tests.generators.network_files import (
    ada_file,
    network,
    rosinality_checkpoint,
    tensorflow_file,
    torch_file,
)
from tests.hostile.fuzzing import Reader, altered_records, with_file
from viewstore.files.tensors import read_tensors
from viewstore.generators.checkpoints.read import read_checkpoint
from viewstore.generators.gan.file import Origin, read_generator, write_generator
from viewstore.generators.gan.inverter import Inverter, InverterShape, load_inverter, write_inverter
from viewstore.generators.gan.training import GanTrainer
from viewstore.train.encoder_file import load_encoder, save_encoder
from viewstore.train.loop.checkpoint import TrainState, load_checkpoint, save_checkpoint
from viewstore.train.maker_file import load_maker, save_maker
from viewstore.train.nets.spatial_transformer import SpatialTransformer, TransformerShape
from viewstore.train.nets.view_maker import ViewMaker, ViewMakerShape


def network_readers(folder: Path) -> dict[str, Reader]:
    gan = small_gan()
    encoder = small_encoder(source_images(gan, 8))
    write_generator(folder / "gan", gan, Origin(), half=True)
    save_encoder(folder / "encoder", encoder.settings, encoder.network, half=True)
    cutter = SpatialTransformer(TransformerShape(size=8, local_size=4, n_locals=1))
    save_maker(folder / "stn", "stn", cutter, {})
    save_maker(folder / "maker", "viewmaker", ViewMaker(ViewMakerShape(size=8)), {})
    write_inverter(folder / "inverter", Inverter(InverterShape.of(gan)), half=True)
    images = torch.zeros(8, 1, 8, 8)
    trainer = GanTrainer(images, TINY)
    trainer.advance()
    trainer.write(folder / "state")
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    state = TrainState(step=1, loader={"epoch": 0}, history=[0.5], partial=[0.25])
    save_checkpoint(folder / "checkpoint", state, {"a": 1}, model, optimizer)
    valid = {
        "generator": (folder / "gan", read_generator),
        "encoder": (folder / "encoder", load_encoder),
        "maker": (folder / "maker", partial(load_maker, kind="viewmaker")),
        "stn": (folder / "stn", partial(load_maker, kind="stn")),
        "inverter": (folder / "inverter", load_inverter),
        "checkpoint": (
            folder / "checkpoint",
            lambda path: load_checkpoint(path, {"a": 1}, model, optimizer),
        ),
        "gan state": (folder / "state", trainer.read),
        "tensors": (folder / "gan", partial(read_tensors, kind="viewstore_gan")),
    }
    readers = {}
    for name, (path, read) in valid.items():
        data = path.read_bytes()
        readers[name] = Reader.of([data], with_file("net", read), _retold(data))
    rosinality = rosinality_checkpoint(network())
    pickles = {
        "pickle": [ada_file(), ada_file(2)],
        "tensorflow pickle": [tensorflow_file(), tensorflow_file(2)],
        "torch zip": [torch_file(rosinality)],
        "torch legacy": [torch_file(rosinality, legacy=True)],
    }
    for name, files in pickles.items():
        readers[name] = Reader.of(files, with_file("net.pkl", read_checkpoint))
    return readers


@st.composite
def _retold(draw: st.DrawFn, data: bytes) -> bytes:
    """Draw a file of tensors whose header, or a text in it, says something else."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    if draw(st.booleans()):
        text = header["__metadata__"]
        name = draw(st.sampled_from(sorted(text)))
        if text[name].startswith("{"):
            text[name] = draw(altered_records([text[name].encode()])).decode("utf-8", "replace")
        else:
            text[name] = draw(st.one_of(st.text(max_size=8), st.sampled_from(("-1", "1e999"))))
        new = json.dumps(header).encode("utf-8", "replace")
    else:
        new = draw(altered_records([data[8:end]]))
    new += b" " * (-len(new) % 8)
    return len(new).to_bytes(8, "little") + new + data[end:]
