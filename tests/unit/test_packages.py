"""The package list in pyproject.toml equals the folders on disk."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
AGAINST_WHEEL = bool(os.environ.get("TORPOR_TEST_WHEEL"))
NOT_PACKAGES = {"tests", "bench", "docs", "packaging", "examples", "build", "dist"}


def test_every_folder_with_code_is_a_listed_package() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    on_disk = {
        "torpor." + p.parent.relative_to(ROOT).as_posix().replace("/", ".")
        for p in ROOT.glob("*/**/*.py")
        if not p.relative_to(ROOT).parts[0].startswith(".") and p.relative_to(ROOT).parts[0] not in NOT_PACKAGES
    }
    assert set(listed) == on_disk
    assert len(listed) == len(set(listed))


def test_every_package_is_typed() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    top = {name.split(".")[1] for name in listed}
    assert [name for name in sorted(top) if not (ROOT / name / "py.typed").is_file()] == []


def test_the_root_is_not_a_module() -> None:
    assert not (ROOT / "__init__.py").exists()
    assert not (ROOT / "torpor").exists()


def test_the_wheel_is_what_is_tested() -> None:
    """`.ci/run` says when the tests are to run against the built wheel: nothing may come from the working tree then."""
    import torpor.db.migrate
    import torpor.state.errors

    places = [Path(m.__file__ or "").resolve() for m in (torpor.state.errors, torpor.db.migrate)]
    if AGAINST_WHEEL:
        assert [p for p in places if p.is_relative_to(ROOT) and ".venv-wheel" not in p.parts] == []
    else:
        assert all(p.is_relative_to(ROOT) for p in places)
    assert torpor.db.migrate.MIGRATIONS.joinpath("versions", "r0001_first.py").is_file()
