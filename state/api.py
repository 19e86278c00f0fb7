"""What client and daemon must agree on before anything else."""

from __future__ import annotations

API_VERSION = 1
VERSION_HEADER = "Torpor-Api-Version"
DIGEST_HEADER = "Torpor-Manifest-Digest"
TIMING_HEADER = "Torpor-Timing"  # of a commit; state/timing.py
DEFAULT_PORT = 7717
