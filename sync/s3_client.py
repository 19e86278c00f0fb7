"""How boto3 is set up: for storages that are not AWS as well, without its retries, and with sockets that we know.

- One attempt a request: what helps at once is tried again by sync/s3.py, which knows which requests may be sent twice
  and what `Retry-After` says; the queue does the rest.
- Checksums only where they are required: the trailing ones are refused by several storages. Ours are explicit headers,
  of the kind that the storage was seen to check (sync/quirks.py).
- Unsigned payloads on HTTPS only: TLS guards the bytes on their way, and hashing them for the signature costs as much
  as sending them. Over HTTP the signature covers the body.
- boto3's transfer library is not used, nor its CRT path, which ignores the endpoint.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any, Literal

from ..state.errors import RemoteRefused
from .connections import LONGEST_SILENCE_S, Calls
from .s3_errors import scrubbed, translated

Addressing = Literal["auto", "path", "virtual"]
DEFAULT_REGION = "us-east-1"
CONNECT_TIMEOUT_S, STALL_S, DEADLINE_S = 15.0, 60.0, 60.0


@dataclass(frozen=True, slots=True)
class S3Options:
    """Where the bucket is, and how long to wait for it. Without keys, boto3's own chain is asked.

    `deadline_s` bounds a whole request; one with a body gets as long as `slowest_bytes_s` needs, if that is more.
    `stall_s` bounds the time in which no byte passes, either way. `attempts` counts the tries of one request.
    """

    bucket: str
    endpoint: str | None = None
    access_key: str | None = field(default=None, repr=False)
    secret_key: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)
    profile: str | None = None
    region: str | None = None
    prefix: str = ""
    addressing: Addressing = "auto"
    ca_bundle: str | None = None
    proxy: str | None = field(default=None, repr=False)
    connect_timeout_s: float = CONNECT_TIMEOUT_S
    stall_s: float = STALL_S
    deadline_s: float = DEADLINE_S
    slowest_bytes_s: float = 32_000.0
    attempts: int = 2
    connections: int = 8

    @property
    def root(self) -> str:
        """Return what stands before every name."""
        prefix = self.prefix.strip("/")
        return f"{prefix}/" if prefix else ""

    @property
    def server(self) -> str:
        """Return what tells this storage from another one."""
        return f"{self.endpoint or 'aws'} {self.region or ''} {self.bucket} {self.root}"

    def allowed_s(self, size_bytes: int) -> float:
        """Return how long a request with a body of this size may take."""
        return max(self.deadline_s, size_bytes / self.slowest_bytes_s)


def make_client(options: S3Options, calls: Calls) -> Any:
    """Return a client of boto3. Raises: RemoteDenied, RemoteRefused."""
    for name in ("boto3", "botocore", "urllib3"):
        logging.getLogger(name).setLevel(logging.WARNING)  # what they say of requests holds signatures and tokens
    with translated("connect"):
        import boto3

        session = boto3.session.Session(
            options.access_key,
            options.secret_key,
            options.session_token,
            region_name=options.region,
            profile_name=None if options.access_key else options.profile,
        )
        region = session.region_name or DEFAULT_REGION
        try:
            client = session.client(
                "s3",
                region_name=region,
                endpoint_url=options.endpoint,
                verify=options.ca_bundle,
                config=_config(options),
            )
        except ValueError as error:
            raise RemoteRefused(f"connect: {scrubbed(str(error))}", hint="Check S3_ENDPOINT.") from error
    # botocore lets nobody choose the class of its connections; this dict is the one that its pools are made from.
    client._endpoint.http_session._pool_classes_by_scheme.update(calls.pool_classes())
    return client


def _config(options: S3Options) -> Any:
    from botocore.config import Config

    style = options.addressing
    if style == "auto" and options.endpoint is not None:
        style = "path"  # a custom endpoint seldom has names and certificates for each bucket
    s3: dict[str, Any] = {"addressing_style": style}
    if not (options.endpoint or "https://").startswith("http://"):
        s3["payload_signing_enabled"] = False
    return Config(
        signature_version="s3v4",
        s3=s3,
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        retries={"mode": "standard", "total_max_attempts": 1},
        connect_timeout=options.connect_timeout_s,
        read_timeout=LONGEST_SILENCE_S,
        max_pool_connections=options.connections,
        proxies={"http": options.proxy, "https": options.proxy} if options.proxy else None,
    )
