"""The doctor: every check there is, in the order in which they are told (daemon/checkup.py says what a check is)."""

from __future__ import annotations

from . import doctor_desktop, doctor_files, doctor_index, doctor_machine, doctor_remote
from .checkup import Look


def all_looks() -> list[Look]:
    """Return every check."""
    return [
        *doctor_machine.LOOKS[:1],
        *doctor_files.LOOKS,
        *doctor_index.LOOKS,
        *doctor_machine.LOOKS[1:],
        *doctor_desktop.LOOKS,
        *doctor_remote.LOOKS,
    ]
