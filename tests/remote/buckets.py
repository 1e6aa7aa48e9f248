"""What lies in a bucket of the S3 server, asked of the server itself, past proxy and product."""

from __future__ import annotations

from collections import Counter
from typing import Any

from tests.remote.servers import BUCKET


class Inside:
    """The objects below a prefix of a bucket, as the server has them."""

    def __init__(self, endpoint: str, prefix: str, bucket: str = BUCKET) -> None:
        import boto3

        self.prefix, self.bucket = prefix, bucket
        self._client: Any = boto3.client(
            "s3",
            endpoint_url=endpoint,
            region_name="us-east-1",
            aws_access_key_id="testing",
            aws_secret_access_key="testing",
        )

    def make_bucket_of_versions(self) -> None:
        """Make the bucket, of which the server also keeps what is written over or removed."""
        self._client.create_bucket(Bucket=self.bucket)
        kept = {"Status": "Enabled"}
        self._client.put_bucket_versioning(Bucket=self.bucket, VersioningConfiguration=kept)

    def names(self) -> list[str]:
        """Names of the objects."""
        return [each["Key"] for each in self._pages("list_objects_v2", "Contents")]

    def objects(self) -> dict[str, bytes]:
        """Bytes of the objects by name."""
        return {name: self.read(name) for name in self.names()}

    def read(self, name: str) -> bytes:
        """Bytes of one object."""
        data: bytes = self._client.get_object(Bucket=self.bucket, Key=self.prefix + name)[
            "Body"
        ].read()
        return data

    def write(self, name: str, data: bytes) -> None:
        """Give an object its bytes."""
        self._client.put_object(Bucket=self.bucket, Key=self.prefix + name, Body=data)

    def remove(self, name: str) -> None:
        """Remove an object."""
        self._client.delete_object(Bucket=self.bucket, Key=self.prefix + name)

    def times_written(self) -> Counter[str]:
        """How often each name was written, of a server that keeps versions."""
        return Counter(each["Key"] for each in self._pages("list_object_versions", "Versions"))

    def removed(self) -> list[str]:
        """Names that were removed, of a server that keeps versions."""
        return [each["Key"] for each in self._pages("list_object_versions", "DeleteMarkers")]

    def open_uploads(self) -> list[str]:
        """Names of uploads of several parts that nobody completed or aborted."""
        return [each["Key"] for each in self._pages("list_multipart_uploads", "Uploads")]

    def _pages(self, call: str, part: str) -> list[dict[str, Any]]:
        pages = self._client.get_paginator(call).paginate(Bucket=self.bucket, Prefix=self.prefix)
        found = [each for page in pages for each in page.get(part, ())]
        for each in found:
            each["Key"] = each["Key"].removeprefix(self.prefix)
        return found
