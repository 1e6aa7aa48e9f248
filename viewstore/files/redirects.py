"""What obstore says of a redirect that it did not follow, as an error for people.

It follows up to ten, over http:// and https:// alone, from a store at https:// to https:// alone,
and sends no Authorization to another host. Its errors are read here, for it has no switch.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from viewstore.errors import RemoteError
from viewstore.files.tokens import PORTS, without_secrets

TOO_MANY = re.compile(r"^ *source: TooManyRedirects,$", re.MULTILINE)
BAD_SCHEME = re.compile(r"^ *kind: Redirect,$.*^ *source: BadScheme,$", re.MULTILINE | re.DOTALL)
BUILDER = re.compile(r"HTTP error: builder error\n.*^ *source: BadScheme,$", re.S | re.M)
ADDRESS = re.compile(r'^ *url: "([^"]*)",$', re.MULTILINE)
UNFOLLOWED = re.compile(r"status code: (30[12378])\b|redirect without LOCATION")
REGION = "name the region of the bucket (AWS_REGION) and its endpoint (AWS_ENDPOINT_URL)"


def not_followed(text: str, url: str) -> RemoteError | None:
    """Return the error of a redirect of `url` that was not followed; None: it was another error.

    Args:
        text: All that obstore says. It may quote an address that is signed, so it must not be
            shown, and the error holds no query.
        url: What was asked for, of a store or a bucket.
    """
    scheme = urlsplit(url).scheme
    unfollowed = UNFOLLOWED.search(text.partition("\n")[0])
    if TOO_MANY.search(text):
        said, why = "redirects in a circle, or more than 10 times", None
    elif BAD_SCHEME.search(text):
        address = ADDRESS.search(text)
        other = without_secrets(address[1]) if address else "another address"
        said = f"redirects to {other}, which has no TLS"
        why = "what is asked for at https:// is not fetched over a connection that others may read"
    elif scheme in PORTS and BUILDER.search(text):
        said, why = "redirects to an address that is not http:// or https://", None
    elif unfollowed is not None:
        status = f"status {unfollowed[1]}" if unfollowed[1] else "without an address"
        said, why = f"answers with a redirect that cannot be followed, {status}", None
    else:
        return None
    return RemoteError(
        f"{url} {said}",
        code="VS403",
        where=url,
        why=why,
        fix="give the address that it leads to" if scheme in PORTS else REGION,
    )
