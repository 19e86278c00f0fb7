"""Requests without TLS: loading the authorities that it trusts takes longer than a request."""

from __future__ import annotations

import ssl
from typing import Any

NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
PLAIN: dict[str, Any] = {"verify": NO_TLS, "trust_env": False}  # options of httpx
