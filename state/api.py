"""What client and daemon must agree on before anything else."""

from __future__ import annotations

API_VERSION = 1
VERSION_HEADER = "Torpor-Api-Version"
DIGEST_HEADER = "Torpor-Manifest-Digest"
BODY_DIGEST_HEADER = "Torpor-Body-Digest"  # of an answer that holds a manifest beside something else
SAVE_HEADER = "Torpor-Save"  # of a blob that is sent: the save that was promised room for it
TIMING_HEADER = "Torpor-Timing"  # of a commit; state/timing.py
DEFAULT_PORT = 7717
