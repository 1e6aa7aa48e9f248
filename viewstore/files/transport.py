"""Connections to object stores: obstore for S3, GCS, Azure and HTTP, fsspec for other URLs."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import SplitResult, unquote, urlsplit

from viewstore.errors import ConfigError, FormatError, UnavailableError
from viewstore.files.credentials import asks_for_role, no_credentials
from viewstore.files.fetch import (
    STATUS,
    Answer,
    CannotCreate,
    Changed,
    Failed,
    Retry,
    Transport,
    failed_role,
    failed_status,
    missing,
)
from viewstore.files.redirects import not_followed
from viewstore.files.tokens import PORTS, Origin, refused, token_for, without_secrets

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from obstore import GetOptions, PutMode
    from obstore.store import ClientConfig, RetryConfig, S3Config


BUCKET_SCHEMES = ("s3", "s3a", "gs", "az", "azure", "abfs", "abfss")
OBSTORE_SCHEMES = (*BUCKET_SCHEMES, "http", "https")
CONTROL = re.compile(r"[\x00-\x1f\x7f]")
CHUNK_BYTES = 256 << 10
BLOCK_BYTES = 8 << 20  # fsspec reads whole blocks, so this is what a broken one costs
CONNECT_SECONDS = 10
ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
ADDRESS = re.compile(r"https?://[^\s/?#@]+(/[^\s?#]*)?")
NO_LENGTH = "Content-Length"
NO_PATH = "invalid path"
NOT_IMPLEMENTED = "501"
REFUSED = (401, 403)
NO_LENGTH_TRIES = 3
WHOLE_SECONDS = 86_400  # a large shard may take long; a stall is noticed by itself
SENT_BYTES = 1 << 20  # of one PUT in a second, at the least: a server is silent while it listens


def connect(url: str, retry: Retry) -> Transport:
    """Return the connections to the store at `url`.

    Raises:
        ConfigError: The URL has another form than a store's, or a file of tokens cannot be used.
        UnavailableError: The package that speaks its scheme is not installed.
    """
    parts = _checked(url)
    if parts.scheme in OBSTORE_SCHEMES:
        return ObstoreTransport(url, retry)
    return FsspecTransport(url)


def _checked(url: str) -> SplitResult:
    """Return the parts of the URL of a store. Raises ConfigError: it has another form."""
    try:
        parts = urlsplit(url)
        if parts.scheme in PORTS:
            Origin.of(url)
    except ValueError as error:
        raise ConfigError(f"store URL cannot be understood: {error}", where=url) from error
    chained = "::" in url or parts.scheme == "pipe"
    if chained or parts.query or parts.fragment or "@" in parts.netloc:
        raise ConfigError(
            "store URL must be scheme://place/path, without user, query, fragment or chain",
            where=without_secrets(url),
            fix="give credentials in the environment (docs/remote.md)",
        )
    return parts


def connect_bucket(url: str, retry: Retry) -> ObstoreTransport:
    """Return the connections to the bucket at `url`, through which objects are written too.

    Raises:
        ConfigError: It is no URL of a bucket.
        UnavailableError: The package obstore is not installed.
    """
    if _checked(url).scheme not in BUCKET_SCHEMES:
        raise ConfigError(
            f"a store at {urlsplit(url).scheme}:// can be read, and not listed or written to",
            where=url,
            why="builders need all names, and to give one only if it is free",
            fix="name a folder, or a bucket of S3 (s3://), Google Cloud Storage (gs://) or Azure "
            "(az://)",
        )
    _check_plain(url)
    return ObstoreTransport(url, retry)


def _check_plain(url: str) -> None:
    """Raise ConfigError if the URL of a bucket names another place than the one it spells."""
    plain = _plain(url)
    if url.rstrip("/") == plain:
        return
    raise ConfigError(
        f"{_printable(url)} would be written to another place than it says",
        where=_printable(url),
        why="segments . and .., empty ones, %xx, control characters, spaces at the end and capital "
        "letters of the scheme have a meaning of their own in a URL",
        fix=f"give {plain}" if _plain(plain) == plain else "name another folder of the bucket",
    )


def _plain(url: str) -> str:
    """Return the URL of a bucket with its path as object stores understand it."""
    scheme, _, place = url.partition("://")
    bucket, _, path = CONTROL.sub("", place).rstrip().partition("/")
    path = posixpath.normpath(f"/{CONTROL.sub('', unquote(path)).strip('/')}").rstrip("/")
    return f"{scheme.lower()}://{bucket}{path}"


def _printable(url: str) -> str:
    return url if url.isprintable() else ascii(url)


def _not_installed(package: str, url: str, error: ImportError) -> UnavailableError:
    return UnavailableError(
        f"reading {urlsplit(url).scheme}:// needs the package {package}",
        where=url,
        why=str(error),
        fix="pip install 'viewstore[remote]'",
    )


class ObstoreTransport:
    """Requests through obstore, whose own retries are off: `Fetcher` retries and resumes.

    An http(s) origin gets the token that this machine holds for it. On a redirect to another
    one obstore leaves the token out.
    """

    _started_in: ClassVar[int | None] = None  # process of obstore's threads, which no fork takes

    def __init__(self, url: str, retry: Retry) -> None:
        try:
            import obstore
        except ImportError as error:
            raise _not_installed("obstore", url, error) from error
        self._api = obstore
        self._errors = obstore.exceptions
        self._url, self._stall_seconds = url, retry.stall_seconds
        self._origin = Origin.of(url) if urlsplit(url).scheme in PORTS else None
        self._token = None if self._origin is None else token_for(self._origin)
        self._store = self._connected(retry.stall_seconds)

    def _connected(self, stall_seconds: float) -> Any:  # noqa: ANN401
        """Return a store of obstore; a request has failed when nothing comes for so long."""
        from obstore.store import from_url

        plain = _plain_endpoint() if self._origin is None else self._origin.scheme == "http"
        client: ClientConfig = {
            "connect_timeout": timedelta(seconds=CONNECT_SECONDS),
            "read_timeout": timedelta(seconds=stall_seconds),
            "timeout": timedelta(seconds=WHOLE_SECONDS),
            "allow_http": plain,  # https is not redirected to http either
        }
        if self._token is not None:
            client["default_headers"] = {"Authorization": f"Bearer {self._token.text}"}
        never: RetryConfig = {"max_retries": 0, "retry_timeout": timedelta(seconds=WHOLE_SECONDS)}
        # S3 compares the bytes that it is sent with this header.
        config: S3Config = {}
        if self._url.startswith("s3"):
            config["checksum_algorithm"] = "SHA256"
        try:
            return from_url(self._url, client_options=client, retry_config=never, config=config)
        except (ValueError, self._errors.BaseError) as error:
            where = self._url
            raise no_credentials(where, _cause(error)) or ConfigError(
                f"store URL cannot be used: {_cause(error)}", where=where
            ) from error

    def get(self, name: str, start: int, stop: int | None, etag: str | None) -> Answer:
        self._check_process()
        options: GetOptions = {}
        if stop is not None:
            options["range"] = (start, stop)
        elif start:
            options["range"] = {"offset": start}
        if etag is not None:
            options["if_match"] = etag
        whole = False
        try:
            try:
                result = self._api.get(self._store, name, options=options)
            except self._errors.NotSupportedError:  # no ranges: take all of it, and leave out some
                result = self._api.get(self._store, name)
                whole = True
        except (self._errors.BaseError, OSError) as error:
            raise self._failure(name, error) from self._shown(error)
        found = result.meta["e_tag"]
        if found is not None and found.startswith("W/"):
            found = None  # names a meaning, not bytes
        if etag is not None and found != etag:
            raise Changed("object changed while it was read")
        size = result.meta["size"]
        chunks = self._chunks(result)
        if whole:
            chunks = between(chunks, start, (size if stop is None else stop) - start)
        return Answer(size, found, chunks)

    def put(self, name: str, data: bytes | NDArray[np.uint8], *, create: bool) -> bool:
        """Send a whole object in one request, which leaves nothing behind when it fails.

        Returns:
            False: only asked to `create`, the server said that the name is taken, or that another
            request for it is under way.

        Raises:
            Failed: No answer, or an error. What was sent may be there all the same.
            CannotCreate: The server has no such request, or obstore says so of it.
        """
        self._check_process()
        store, size = self._store, len(data)
        if size > SENT_BYTES:
            store = self._connected(self._stall_seconds + size / SENT_BYTES)
        mode: PutMode = "create" if create else "overwrite"
        try:
            self._api.put(store, name, data, mode=mode, use_multipart=False)
        except self._errors.AlreadyExistsError as error:
            if create:
                return False
            raise Failed(_cause(error)) from error
        except (self._errors.NotSupportedError, NotImplementedError) as error:  # obstore's own word
            raise CannotCreate(_cause(error)) from error
        except (self._errors.BaseError, OSError) as error:
            status = STATUS.search(_cause(error))
            if create and status is not None and status[1] == NOT_IMPLEMENTED:
                raise CannotCreate(_cause(error)) from error
            raise self._failure(name, error) from self._shown(error)
        return True

    def listed(self, prefix: str) -> Iterator[tuple[str, int, float]]:
        """Yield name, size and time of the last change of all objects below, in order of names.

        The time is in seconds since 1970. A page of 1000 is asked for when the one before is used.

        An object whose name is that of the folder itself stands for the folder in consoles.

        Raises:
            Failed: No answer, or an error, of any page.
            FormatError: There is a name that no file can have.
        """
        self._check_process()
        try:
            for page in self._api.list(self._store, prefix, chunk_size=1000):
                for each in page:
                    if each["path"]:
                        yield each["path"], each["size"], each["last_modified"].timestamp()
        except (self._errors.BaseError, OSError) as error:
            if NO_PATH in str(error):
                raise FormatError(
                    "the bucket has an object with a name that no file of a store has",
                    where=self._url,
                    why=_cause(error),
                    fix="remove it, or name another folder of the bucket",
                ) from error
            raise self._failure(prefix, error) from self._shown(error)

    def size(self, name: str) -> int | None:
        """Return the bytes of an object, None if there is none. Raises Failed."""
        self._check_process()
        try:
            found: int = self._api.head(self._store, name)["size"]
        except FileNotFoundError:
            return None
        except (self._errors.BaseError, OSError) as error:
            raise self._failure(name, error) from self._shown(error)
        return found

    def copy(self, name: str, to: str) -> bool:
        """Give the bytes of an object to another name too; false if there is none. Raises Failed.

        The server copies them; what had the other name is replaced.
        """
        self._check_process()
        try:
            self._api.copy(self._store, name, to)
        except FileNotFoundError:
            return False
        except (self._errors.BaseError, OSError) as error:
            raise self._failure(name, error) from self._shown(error)
        return True

    def remove(self, name: str) -> None:
        """Remove an object, if it is there. Raises Failed."""
        self._check_process()
        try:
            self._api.delete(self._store, name)
        except FileNotFoundError:
            return
        except (self._errors.BaseError, OSError) as error:
            raise self._failure(name, error) from self._shown(error)

    def _check_process(self) -> None:
        """Raise UnavailableError in a forked process, where a request would never end."""
        kind = ObstoreTransport
        kind._started_in = kind._started_in or os.getpid()
        if kind._started_in != os.getpid():
            raise UnavailableError(
                "a remote store was read before this process was forked",
                why="the threads that read it stayed in the parent",
                fix="start worker processes with the method spawn or forkserver",
            )

    def _chunks(self, result: Any) -> Iterator[bytes]:  # noqa: ANN401
        try:
            yield from result.stream(min_chunk_size=CHUNK_BYTES)
        except (self._errors.BaseError, OSError) as error:
            raise Failed(_cause(error)) from error

    def _shown(self, error: Exception) -> Exception | None:
        """Return the error, unless it quotes the token that was sent, or a signed address."""
        text = str(error)
        secret = self._token is not None and self._token.text in text
        return None if secret or not_followed(text, self._url) is not None else error

    def _failure(self, name: str, error: Exception) -> Exception:
        """Return the Failed, Changed or RemoteError that stands for an error of obstore."""
        unfollowed = not_followed(str(error), f"{self._url}/{name}")
        if unfollowed is not None:
            return unfollowed
        cause = _cause(error)
        status = STATUS.search(cause)
        if self._origin is not None and status is not None and int(status[1]) in REFUSED:
            return refused(f"{self._url}/{name}", self._origin, self._token, int(status[1]))
        if self._token is not None:
            cause = cause.replace(self._token.text, "TOKEN")
        if asks_for_role(cause):  # whose 404 says that the machine has none
            return failed_role(None if status is None else int(status[1]), cause)
        if isinstance(error, FileNotFoundError):
            return missing(cause)
        if isinstance(error, self._errors.PreconditionError):
            return Changed("object changed while it was read")
        if NO_LENGTH in cause:  # a body that may end anywhere, and look whole
            return Failed(cause, most=NO_LENGTH_TRIES)
        if status is not None:
            return failed_status(int(status[1]), cause)
        known = (self._errors.PermissionDeniedError, self._errors.UnauthenticatedError)
        return Failed(cause, most=1 if isinstance(error, known) else None)


def between(chunks: Iterator[bytes], skip: int, length: int) -> Iterator[bytes]:
    """Yield `length` bytes of a stream after its first `skip`."""
    for chunk in chunks:
        piece = chunk[skip : skip + length]
        skip = max(0, skip - len(chunk))
        length -= len(piece)
        if piece:
            yield piece
        if not length:
            return


def _plain_endpoint() -> bool:
    """Whether the environment names an endpoint without TLS, as S3 servers on site have.

    Raises:
        ConfigError: What it names is no address.
    """
    named = {name: os.environ[name] for name in ENDPOINTS if name in os.environ}
    for name, address in named.items():
        if not ADDRESS.fullmatch(address):
            raise ConfigError(
                f"{name} is no address of a server",
                where=f"{name}={_printable(address)}",
                fix=f"set {name} to one such as https://HOST:PORT, or unset it",
            )
    return any(address.startswith("http://") for address in named.values())


def _cause(error: Exception) -> str:
    return str(error).partition("\n")[0].rstrip(": ") or type(error).__name__


class FsspecTransport:
    """Reads through any file system of fsspec, in blocks whose length is checked."""

    def __init__(self, url: str) -> None:
        try:
            import fsspec
        except ImportError as error:
            raise _not_installed("fsspec", url, error) from error
        try:
            self._files, self._root = fsspec.core.url_to_fs(url)
        except ImportError as error:
            raise _not_installed("that fsspec names below", url, error) from error
        except ValueError as error:
            raise ConfigError(f"store URL cannot be used: {error}", where=url) from error

    def get(self, name: str, start: int, stop: int | None, etag: str | None) -> Answer:
        path = f"{self._root}/{name}"
        try:
            facts = self._files.info(path)
        except FileNotFoundError as error:
            raise missing(str(error)) from error
        except PermissionError as error:
            raise Failed(str(error), most=1) from error
        except Exception as error:  # each file system of fsspec has errors of its own
            raise Failed(_cause(error)) from error
        size = facts.get("size")
        if size is None:
            raise Failed("the server does not say how long the file is", most=1)
        found = str(facts.get("ETag") or facts.get("mtime") or "") or None
        if etag is not None and found != etag:
            raise Changed("object changed while it was read")
        return Answer(size, found, self._chunks(path, start, size if stop is None else stop))

    def _chunks(self, path: str, start: int, stop: int) -> Iterator[bytes]:
        for begin in range(start, stop, BLOCK_BYTES):
            end = min(begin + BLOCK_BYTES, stop)
            try:
                data = self._files.cat_file(path, start=begin, end=end)
            except Exception as error:
                raise Failed(_cause(error)) from error
            if len(data) != end - begin:
                raise Failed(f"got {len(data)} bytes of {end - begin}")
            yield data
