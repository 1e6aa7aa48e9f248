"""Where builders run: the devices of `--device`, and the place of each worker of this machine.

The command line checks the devices of this machine before anything is read; executors share them
out. A device is named as torch names it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from viewstore.errors import ConfigError, UnavailableError
from viewstore.progress import Progress

CPU = "cpu"
DEVICE = re.compile(r"(?!meta\b)[a-z]+(:\d{1,4})?", re.ASCII)  # meta has shapes, and no numbers
AUTO = "auto"  # every GPU that is visible, else the CPU
NO_GPU = (
    "--device auto finds no GPU: the networks run on the CPU, which takes many times longer, and "
    "pixels may differ in the last bit; --device cuda refuses that"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where one builder runs.

    Attributes:
        device: Torch device of its networks.
        threads: That it may use.
    """

    device: str = CPU
    threads: int = 1


def local_devices(text: str) -> tuple[str, ...]:
    """Return the devices that "cuda:0,cuda:1", or "auto", names on this machine.

    Raises:
        ConfigError: Nothing stands before, between or after commas.
        UnavailableError: Torch has no such device here.
    """
    names = tuple(name.strip(" ") for name in text.split(","))
    if AUTO in names and len(names) > 1:
        raise ConfigError(
            f"--device {AUTO} stands alone: it takes every GPU",
            where=f"--device {text}",
            fix=f"--device {AUTO}, or name the devices",
        )
    if not all(names):
        raise ConfigError(
            "--device must name torch devices with commas between them",
            where=f"--device {text}",
            fix="--device cuda:0,cuda:1",
        )
    if names == (AUTO,):
        return _visible() or (CPU,)
    return tuple(checked_device(name) for name in names)


def planning_device(text: str) -> str:
    """Return the device on which a build is planned: the first, or the CPU if it is not here.

    The machine that plans for others need not have what they have.
    """
    try:
        return local_devices(text)[0]
    except UnavailableError:
        return CPU


def checked_device(name: str) -> str:
    """Return the name of a device.

    Raises:
        ConfigError: It is no name of a device that computes.
        UnavailableError: Torch has no such device here.
    """
    if name == CPU:
        return name
    if DEVICE.fullmatch(name) is None:
        raise ConfigError(
            f"--device {name[:60]!r} names no device that computes",
            where=f"--device {name[:60]!r}",
            why="a device is named as torch names it: cpu, cuda, cuda:1, mps",
            fix="leave out --device to use the CPU",
        )
    import torch

    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise UnavailableError(
            f"device {name} cannot be used",
            where=f"--device {name}",
            why=str(error).splitlines()[0],
            fix="leave out --device to use the CPU",
        ) from error
    return name


def local_places(
    devices: Sequence[str], *, workers: int, units: int, cores: int, networks: bool
) -> list[Place]:
    """Return the place of each worker of a machine; worker i has device i modulo their number.

    Args:
        devices: Torch devices.
        workers: Number of workers that the user wants; 0: one for each core where there is only
            the CPU, else one for each device.
        units: Units of work; no more workers than that.
        cores: That this process may use.
        networks: Whether builders run networks, whose sums differ between numbers of threads.
    """
    wanted = workers or (cores if tuple(devices) == (CPU,) else len(devices))
    count = max(1, min(wanted, units))
    threads = 1 if networks else max(1, cores // count)
    return [Place(device=devices[i % len(devices)], threads=threads) for i in range(count)]


def warn_of_no_gpu(progress: Progress, device: str, place: Place, *, networks: bool) -> None:
    """Warn if networks that were to run on any GPU, by `device`, are placed on the CPU."""
    if device == AUTO and networks and place.device == CPU:
        progress.warn(NO_GPU)


def _visible() -> tuple[str, ...]:
    import torch

    return tuple(f"cuda:{number}" for number in range(torch.cuda.device_count()))
