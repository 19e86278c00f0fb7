"""The sdist and the wheel: the wheel is made from the sdist alone, and both say of themselves what an index wants to know."""

from __future__ import annotations

import email
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.message import Message
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The sdist and the wheel, made under a folder whose leftovers they must not take up."""
    pytest.importorskip("setuptools", minversion="77")
    folder = tmp_path_factory.mktemp("made")
    subprocess.run([ROOT / "packaging" / "wheel.sh", sys.executable, folder], check=True, capture_output=True)
    (sdist,) = folder.glob("*.tar.gz")
    (wheel,) = folder.glob("*.whl")
    return sdist, wheel


def test_the_wheel_holds_the_code_and_nothing_else(made: tuple[Path, Path]) -> None:
    names = zipfile.ZipFile(made[1]).namelist()
    folders = {path.parent.name for path in ROOT.glob("*/py.typed")}
    files = {
        p for folder in folders for p in (ROOT / folder).rglob("*") if p.is_file() and "__pycache__" not in p.parts
    }
    of_development = {"web/README.md", "web/jsconfig.json", "web/package.json"}
    there = {path.relative_to(ROOT).as_posix() for path in files} - of_development
    assert {name.removeprefix("torpor/") for name in names if name.startswith("torpor/")} == there
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"torpor"}


def test_the_sdist_is_enough_to_test_and_to_package(made: tuple[Path, Path]) -> None:
    with tarfile.open(made[0]) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
    needed = {
        "Makefile",
        "LICENSE",
        "CHANGELOG.md",
        "packaging/deb/build.sh",
        "packaging/constraints.txt",
        "tests/conftest.py",
    }
    assert needed <= names
    assert [
        name for name in names if "__pycache__" in name or name.startswith(("build/", "dist/", ".git/", ".venv"))
    ] == []


def test_they_describe_themselves(made: tuple[Path, Path]) -> None:
    """What `twine check` looks for, and that every extra is there."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    about = _metadata(made[1])
    assert (about["Name"], about["Version"], about["License-Expression"]) == (
        "torpor",
        project["version"],
        "Apache-2.0",
    )
    assert about["Description-Content-Type"] == "text/markdown"
    assert about["Requires-Python"] == project["requires-python"]
    assert str(about.get_payload()).startswith("# Torpor")
    assert set(about.get_all("Provides-Extra", [])) == set(project["optional-dependencies"])
    assert all(not line.startswith("License ::") for line in about.get_all("Classifier", []))
    with tarfile.open(made[0]) as tar:
        file = tar.extractfile(f"torpor-{project['version']}/PKG-INFO")
        assert file is not None
        assert email.message_from_bytes(file.read()).items() == about.items()


def _metadata(wheel: Path) -> Message:
    archive = zipfile.ZipFile(wheel)
    (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    return email.message_from_bytes(archive.read(name))
