"""The Ray cluster that a build runs on: joined, or started on this machine for the build alone."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import logging
import os
import secrets
import socket
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from viewstore.cores import usable_cores
from viewstore.errors import ConfigError, UnavailableError
from viewstore.shards.place import AUTO, CPU
from viewstore.shards.signals import StopRequest, stop_signals_blocked, stop_signals_to

CUDA = "cuda"
CONNECT_SECONDS = 10.0
STORE_BYTES = 100 * 2**20  # of objects between processes: units and outcomes are small


def check_ray(device: str) -> None:
    """Check what a build with Ray needs of this machine, before anything is read.

    Raises:
        ConfigError: A GPU is named by its number, or RAY_ADDRESS is one of Ray Client.
        UnavailableError: The package is missing, or the cluster of RAY_ADDRESS does not answer.
    """
    if importlib.util.find_spec("ray") is None:
        raise UnavailableError(
            "--executor ray needs the package ray", fix="pip install 'viewstore[ray]'"
        )
    if device not in (CPU, AUTO, CUDA):
        raise ConfigError(
            f"--executor ray takes no --device {device}",
            where=f"--device {device}",
            why="Ray gives each builder a GPU of its own, wherever one is free",
            fix=f"--device {CUDA} uses every GPU of the cluster, --workers N only N of them",
        )
    address = os.environ.get("RAY_ADDRESS", "")
    if "://" in address:
        raise ConfigError(
            "--executor ray cannot build through Ray Client",
            where=f"RAY_ADDRESS={address}",
            why="the driver belongs to a node of the cluster, whose losses it must hear of",
            fix="run the command on a node, with RAY_ADDRESS=HOST:6379",
        )
    if not address.rpartition(":")[2].isdigit():
        return  # none, or for Ray to judge
    try:
        connect(address)
    except (OSError, OverflowError, ValueError) as error:  # no such port, or no name of a host
        raise UnavailableError(
            "the Ray cluster does not answer",
            where=f"RAY_ADDRESS={address}",
            why=str(error),
            fix="start it, or unset RAY_ADDRESS to build on this machine",
        ) from error


def connect(address: str, seconds: float = CONNECT_SECONDS) -> None:
    """Raise OSError unless somebody listens there: Ray itself goes on for minutes."""
    host, _, port = address.rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), seconds).close()


@contextlib.contextmanager
def joined_cluster(stop: StopRequest, warn: Callable[[str], None]) -> Iterator[None]:
    """Join the cluster of RAY_ADDRESS or one that runs here, else start one; leave it at the end.

    A program that joined one itself goes on with it. Stop signals go to `stop` again as soon as
    Ray has begun, the environment is as before.

    Raises:
        UnavailableError: The cluster cannot be reached, or lets nobody in without its token.
    """
    import ray

    if ray.is_initialized():
        yield
        return
    with _level_put_back(logging.getLogger("ray")):
        try:
            # Whatever starts here inherits the mask: a signal to the whole group is ours to obey.
            with stop_signals_blocked(), stop_signals_to(stop.request):
                asks_for_token = _begin()
            if not asks_for_token:
                warn(
                    "the Ray cluster asks for no token: who reaches its port can run code on "
                    "every node; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN where it is started, "
                    "and here"
                )
            yield
        finally:
            ray.shutdown()


def _begin() -> bool:
    """Join or start a cluster; return whether it asks for a token."""
    from ray.exceptions import AuthenticationError, RayError

    try:
        _knock()
        try:
            return _init(
                {"RAY_AUTH_TOKEN": os.environ.get("RAY_AUTH_TOKEN") or _token()},
                num_cpus=usable_cores(),
                object_store_memory=STORE_BYTES,
                include_dashboard=False,
            )
        except ValueError:  # there is one, and it has these
            return _init({})
    except AuthenticationError as error:
        raise _not_joined(
            "it asks for a token, and another one or none is given here",
            fix="set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN to what they are where the cluster was "
            "started",
        ) from error
    except (OSError, RayError, RuntimeError, ValueError) as error:
        raise _not_joined(
            " ".join(str(error).split()),
            fix="see that `ray status` answers here, and that Ray and Python are those of the "
            "cluster; `ray stop` forgets a cluster that is gone",
        ) from error


def _not_joined(why: str, *, fix: str) -> UnavailableError:
    where = f"RAY_ADDRESS={os.environ.get('RAY_ADDRESS', '')}"
    return UnavailableError("the Ray cluster cannot be joined", where=where, why=why, fix=fix)


def _knock() -> None:
    """Raise OSError or RayError if a cluster that is there does not answer, or refuses the token.

    `ray.init` itself asks for twenty seconds, and prints each answer.
    """
    try:
        services: Any = importlib.import_module("ray._private.services")
        tokens: Any = importlib.import_module(
            "ray._private.authentication.authentication_token_setup"
        )
        raylet: Any = importlib.import_module("ray._raylet")
    except ImportError:  # none is promised: without them it takes those seconds
        return
    address = services.canonicalize_bootstrap_address(None)
    if address is not None:
        connect(address)
        tokens.ensure_token_if_auth_enabled(None, create_token_if_missing=False)
        with _stderr_dropped():
            raylet.GcsClient(address=address)


def _init(environment: Mapping[str, str], **start: Any) -> bool:  # noqa: ANN401
    """Call ray.init; return whether it took a token."""
    import ray

    with _environment_put_back():
        os.environ.update({"RAY_USAGE_STATS_ENABLED": "0", **environment})
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **start)
        return os.environ.get("RAY_AUTH_MODE") == "token"


@functools.cache  # Ray reads it once in each process
def _token() -> str:
    return secrets.token_hex(32)


@contextlib.contextmanager
def _stderr_dropped() -> Iterator[None]:
    """Drop what libraries print, which do so past sys.stderr."""
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


@contextlib.contextmanager
def _environment_put_back() -> Iterator[None]:
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


@contextlib.contextmanager
def _level_put_back(logger: logging.Logger) -> Iterator[None]:
    before = logger.level
    try:
        yield
    finally:
        logger.setLevel(before)
