"""What to say where a bucket is asked for without credentials: which variables would give them."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from viewstore.errors import RemoteError

# Where a machine of a cloud is asked for the credentials of its role: before anything else, if the
# client of an object store found no others.
_ROLE = re.compile(
    r"https?://([^/\s]+)/"
    r"(latest/(api/token|meta-data/)|computeMetadata/|metadata/identity/|v\d/credentials)"
)
_NO_ACCOUNT = "Account must be specified"


@dataclass(frozen=True)
class _Credentials:
    """Where the credentials of a cloud come from.

    Attributes:
        variables: Those that give them together.
        unread: What is not read, or is missing too, as a sentence without its end.
        others: What may be done instead.
    """

    variables: tuple[str, ...]
    unread: str
    others: str


_AWS = _Credentials(
    ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
    "~/.aws and AWS_PROFILE are not read",
    'of a profile: eval "$(aws configure export-credentials --profile NAME --format env)"; for a '
    "public bucket: AWS_SKIP_SIGNATURE=true",
)
_GOOGLE = _Credentials(
    ("GOOGLE_APPLICATION_CREDENTIALS",),
    "no login of gcloud for applications was found",
    "or: gcloud auth application-default login; for a public bucket: GOOGLE_SKIP_SIGNATURE=true",
)
_AZURE = _Credentials(
    ("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT_KEY"),
    "no login of az was asked",
    "for a public container: AZURE_SKIP_SIGNATURE=true",
)
_BY_SCHEME = {"s3": _AWS, "s3a": _AWS, "gs": _GOOGLE}


def asks_for_role(cause: str) -> bool:
    """Whether what a client said is about the machine that it asked for credentials."""
    return _ROLE.search(cause) is not None


def no_credentials(url: str, cause: str) -> RemoteError | None:
    """Return the error of a bucket at `url` that stopped for want of credentials; None: it did not.

    Args:
        url: Of the store.
        cause: What the client of object stores said.
    """
    role = _ROLE.search(cause)
    if role is None and _NO_ACCOUNT not in cause:
        return None
    wanted = _BY_SCHEME.get(urlsplit(url).scheme, _AZURE)
    unset = [name for name in wanted.variables if not os.environ.get(name)] or wanted.variables
    why = f"{' and '.join(unset)} {'is' if len(unset) == 1 else 'are'} not set; {wanted.unread}"
    if role is not None:
        why += f"; and the role of this machine, asked at {role[1]}, gave none"
    return RemoteError(
        f"no credentials for {urlsplit(url).scheme}://{urlsplit(url).netloc} were found",
        where=url,
        why=why,
        fix=f"export {' '.join(f'{name}=..' for name in wanted.variables)}; {wanted.others}",
    )
