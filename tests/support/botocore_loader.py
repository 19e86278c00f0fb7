"""botocore reads what it knows of S3 once in a process, as the clients of one session do, not anew for every client."""

from __future__ import annotations

import functools

import botocore.session


def share_loader() -> None:
    """Make it so, for the whole run."""
    botocore.session.create_loader = functools.cache(botocore.session.create_loader)
