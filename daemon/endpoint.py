"""Where a connection to the storage goes, so that it can be tried without a request."""

from __future__ import annotations

from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from ..sync.s3_client import DEFAULT_REGION, S3Options

_PORTS = {"http": 80, "https": 443}


def address_of(options: S3Options) -> tuple[str, int] | None:
    """Return host and port of the storage; None where a proxy stands before it, which says nothing of it."""
    endpoint = options.endpoint or f"https://s3.{options.region or DEFAULT_REGION}.amazonaws.com"
    parts = urlsplit(endpoint)
    if parts.hostname is None or options.proxy:
        return None
    if parts.scheme in getproxies() and not proxy_bypass(parts.hostname):
        return None
    return parts.hostname, parts.port or _PORTS[parts.scheme]
