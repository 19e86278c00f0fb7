"""What `torpor serve` reads by itself, so that the daemon holds no command line."""

from __future__ import annotations

from pathlib import Path

import pytest
from torpor.cli.serving import Asked, asked, stated


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], Asked()),
        (["--json"], Asked(as_json=True)),
        (["--port", "0", "--json"], Asked(0, as_json=True)),
        (["--port=7718"], Asked(7718)),
        (["--port"], None),
        (["--port", "http"], None),
        (["--port", "-1"], None),
        (["--port", "²"], None),
        (["--json=1"], None),
        (["--help"], None),
        (["now"], None),
    ],
)
def test_plain_arguments_are_read_and_all_others_left_to_the_command_line(
    arguments: list[str], expected: Asked | None
) -> None:
    assert asked(arguments) == expected


def test_what_it_takes_of_the_disk_is_said(tmp_path: Path) -> None:
    assert stated(tmp_path, "20%", "90%", None).startswith("It keeps at most ")
    assert "(20% of the disk)" in stated(tmp_path, "20%", "90%", None)
    assert "at most 2.0 GiB there, and leaves 1.0 GiB" in stated(tmp_path, "2GiB", "90%", "1GiB")
