"""The frozen encoder: a trained network with its preprocessing, and the file that keeps both."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from viewstore.errors import CheckpointError, ConfigError
from viewstore.files.tensors import check_weights, read_with_config, write_with_config
from viewstore.train.nets.foreign import is_foreign, runs_code
from viewstore.train.nets.network import Network, NetworkSettings, seeded_network

KIND = "encoder"
MAX_SIZE = 4096
# JSON types of the settings in a file, and of those that it has where they are not the default.
SCALARS: dict[str, type] = {
    "backbone": str,
    "in_channels": int,
    "size": int,
    "policy": str,
    "provenance": dict,
}
LISTS: Mapping[str, type] = {"projector": int, "mean": float, "std": float}
OPTIONAL: dict[str, type] = {
    "projector_norm": str,
    "projector_last": str,
    "activation": str,
    "zero_init": bool,
    "stem": str,
    "drop_path": float,
    "patch": int,
}


@dataclass(frozen=True, kw_only=True)
class EncoderSettings(NetworkSettings):
    """What an encoder needs besides its weights: the settings of its network, and more.

    Attributes:
        size: Side of the square input, in pixels; other images are resized to it.
        mean, std: Normalisation per channel, of values in [0, 1].
        policy: Name of the expert policy that it was trained with; "" if there was none.
        provenance: Command, settings and versions that it was trained with, for people.

    Raises:
        ConfigError: A value is out of range.
    """

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    policy: str
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.size <= MAX_SIZE:
            raise ConfigError(f"size must be in [1, {MAX_SIZE}], got {self.size}")
        if not len(self.mean) == len(self.std) == self.in_channels:
            raise ConfigError(
                f"mean and std must have {self.in_channels} values, one per channel, "
                f"got {self.mean} and {self.std}"
            )
        if not all(map(math.isfinite, self.mean)) or not all(
            0 < std < math.inf for std in self.std
        ):
            raise ConfigError(
                f"mean must be finite and std above 0, got {self.mean} and {self.std}"
            )

    def network(self) -> NetworkSettings:
        """Return the settings of the network."""
        return NetworkSettings(
            **{item.name: getattr(self, item.name) for item in fields(NetworkSettings)}
        )


class Encoder(nn.Module):
    """A frozen network with its preprocessing, which measures features and distances.

    Attributes:
        settings: Its preprocessing and the shape of its network.
        digest: sha256 of its file, in hex; "" if it was not read from one.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, settings: EncoderSettings, network: Network, *, digest: str = "") -> None:
        super().__init__()
        self.settings = settings
        self.digest = digest
        self.network = network
        self.register_buffer("mean", torch.tensor(settings.mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(settings.std).view(-1, 1, 1), persistent=False)
        self.requires_grad_(False).eval()

    @property
    def in_channels(self) -> int:
        return self.settings.in_channels

    @property
    def size(self) -> int:
        return self.settings.size

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width of what its network sees."""
        return self.size, self.size

    @property
    def input_views(self) -> None:
        """It takes any number of images at a time."""
        return None

    @property
    def policy(self) -> str:
        return self.settings.policy

    def forward(self, x: Tensor) -> Tensor:
        """Return unit embeddings [N, D] of images [N, C, H, W], float32 in [0, 1].

        C is 1 or 3: a network of one channel reads the first, one of three sees a gray image in
        all three. Differentiable with respect to `x`.
        """
        return F.normalize(self.network(self.prepare(x)), dim=1)

    def features(self, x: Tensor) -> Tensor:
        """Return the backbone's features [N, F] of images as in `forward`, not normalised."""
        out: Tensor = self.network.backbone(self.prepare(x))
        return out

    def probe_features(self, x: Tensor) -> Tensor:
        """Return what a linear probe reads [N, G] of images as in `forward`, not normalised.

        That is `features`; of a vision transformer the class tokens of its last four blocks.
        """
        return self.network.backbone.probe_features(self.prepare(x))

    def outputs(self, x: Tensor) -> dict[str, Tensor]:
        """Return {"feature": `features(x)`}: what a set of columns may keep of images."""
        return {"feature": self.features(x)}

    def prepare(self, x: Tensor) -> Tensor:
        """Return the network's input, [N, in_channels, size, size], for images of `forward`."""
        if x.ndim != 4 or x.shape[1] not in (1, 3):
            raise ConfigError(f"images must be [N, 1 or 3, H, W], got {list(x.shape)}")
        channels = self.settings.in_channels
        x = x[:, :channels] if x.shape[1] >= channels else x.expand(-1, channels, -1, -1)
        side = (self.size, self.size)
        if x.shape[2:] != side:
            x = F.interpolate(x, side, mode="bilinear", align_corners=False, antialias=True)
        return (x - self.mean) / self.std


def save_encoder(
    path: Path, settings: EncoderSettings, network: Network, *, half: bool = False
) -> None:
    """Replace the file `path` by an encoder, atomically; weights are rounded to float16 if `half`.

    Batch norms are kept in their clean domain alone.

    Raises:
        ConfigError: A weight is not finite, or too large for float16.
    """
    dtype = torch.float16 if half else torch.float32
    weights = network.clean_weights()
    tensors = {name: tensor.detach().to(dtype) for name, tensor in weights.items()}
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise ConfigError(f"weight {name} must be finite in {dtype}", where=str(path))
    write_with_config(path, KIND, tensors, _config(settings))


def load_encoder(path: str | Path, *, backbone: str | None = None) -> Encoder:
    """Return the encoder in the file at `path`, frozen, in evaluation mode, float32.

    `backbone`: the module:function that the file may call. A file whose backbone was made by a
    function of the user's loads only where the reader names the same: reading a file runs no code
    that the file alone chose.

    Raises:
        CheckpointError: It is not an encoder's file, or its settings and weights do not agree, or
            it wants another function than `backbone`.
        ConfigError: The function `backbone` cannot be called, or makes something else.
        UnavailableError: Its backbone is of a package that is not installed.
    """
    path = Path(path)
    file = read_with_config(path, KIND)
    try:
        settings = _settings(file.config)
        _check_consent(settings.backbone, backbone, path)
        network = _network(settings, file.tensors)
    except ConfigError as error:
        if backbone is not None and error.where == backbone:  # the reader's own, not the file's
            raise
        raise CheckpointError(
            f"encoder file is damaged: {error}",
            where=str(path),
            fix="train it again with viewstore train, or copy it again",
        ) from error
    with torch.no_grad():
        for name, tensor in network.clean_weights().items():
            tensor.copy_(file.tensors[name])
    return Encoder(settings, network, digest=file.digest)


def _check_consent(wanted: str, allowed: str | None, path: Path) -> None:
    """Raise CheckpointError if the backbone `wanted` runs code that the reader did not allow."""
    if runs_code(wanted) and wanted != allowed:
        raise CheckpointError(
            f"the encoder's backbone is made by the function {wanted}, which was not allowed",
            where=str(path),
            why="a file must not choose what code is run",
            fix=f"if it is yours, allow it: viewstore eval --backbone {wanted}, in Python "
            f"load_encoder(path, backbone={wanted!r})",
        )


def _network(settings: EncoderSettings, tensors: Mapping[str, Tensor]) -> Network:
    """Return the network of `settings`, after comparing it with the tensors of a file.

    Raises:
        ConfigError: They do not agree.
    """
    ours = not is_foreign(settings.backbone)
    # At first without memory: a file may name widths that no machine holds.
    with torch.device("meta") if ours else nullcontext():
        network = seeded_network(settings.network(), 0, size=settings.size)
    check_weights(network.clean_weights(), tensors)
    return seeded_network(settings.network(), 0, size=settings.size) if ours else network


def _config(settings: EncoderSettings) -> dict[str, Any]:
    """Return the settings as the JSON object of a file, without defaults that old files lack."""
    defaults = {item.name: item.default for item in fields(settings)}
    return {
        name: value
        for name, value in asdict(settings).items()
        if name not in OPTIONAL or value != defaults[name]
    }


def _settings(config: Mapping[str, Any]) -> EncoderSettings:
    """Return the settings in the JSON object of a file. Raises ConfigError: another key or type."""
    names = {*SCALARS, *LISTS}
    if differing := sorted(names ^ (set(config) - set(OPTIONAL))):
        raise ConfigError(
            f"settings must have the keys {sorted(names)}, they differ in {differing[0]}"
        )
    values = dict(config)
    for name, kind in (SCALARS | OPTIONAL).items():
        if name in config:
            _check_type(name, config[name], kind)
    for name, kind in LISTS.items():
        _check_type(name, config[name], list)
        for item in config[name]:
            _check_type(name, item, kind)
        values[name] = tuple(config[name])
    return EncoderSettings(**values)


def _check_type(name: str, value: object, kind: type) -> None:
    if type(value) is not kind:
        raise ConfigError(f"setting {name} must be {kind.__name__}, got {value!r}")
