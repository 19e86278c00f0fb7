"""Where the bucket is: places and their order, what is missing, and that no secret is shown."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from torpor.daemon.remote_settings import RemoteSettings, load_remote_settings, working_directory
from torpor.state.errors import InvalidSettings

FULL = {
    "PERSISTENCE_BACKEND": "s3",
    "S3_ENDPOINT": "https://s3.example.org",
    "S3_ACCESS_KEY": "the-access-key",
    "S3_SECRET_KEY": "the-secret-key",
    "S3_BUCKET": "sessions",
}


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    working, home = tmp_path / "work", tmp_path / "home"
    working.mkdir()
    home.mkdir()
    return working, home


def write_env(folder: Path, values: dict[str, str], mode: int = 0o600) -> None:
    (folder / ".env").write_text("".join(f"{k}={v}\n" for k, v in values.items()))
    (folder / ".env").chmod(mode)


def bucket(settings: RemoteSettings) -> str | None:
    return settings.s3.bucket if settings.s3 else None


def test_nothing_is_off(folders: tuple[Path, Path]) -> None:
    assert load_remote_settings({}, *folders) == RemoteSettings(None)


def test_variables_of_other_programs_do_not_turn_it_on(folders: tuple[Path, Path]) -> None:
    others = {k: v for k, v in FULL.items() if k != "PERSISTENCE_BACKEND"}
    assert load_remote_settings(others, *folders).s3 is None
    assert load_remote_settings(others | {"PERSISTENCE_BACKEND": "local"}, *folders).s3 is None


def test_five_variables_are_enough(folders: tuple[Path, Path]) -> None:
    found = load_remote_settings(FULL, *folders)
    assert found.s3 is not None
    options = found.s3.options()
    assert (options.bucket, options.endpoint, options.access_key, options.secret_key) == (
        "sessions",
        "https://s3.example.org",
        "the-access-key",
        "the-secret-key",
    )
    assert found.origin == ("the environment",)


@pytest.mark.parametrize("place", ["working", "home", "toml"])
def test_each_place_is_enough(folders: tuple[Path, Path], place: str) -> None:
    working, home = folders
    if place == "toml":
        table = "".join(f'{k[3:].lower()} = "{v}"\n' for k, v in FULL.items() if k.startswith("S3_"))
        (home / "config.toml").write_text(f'persistence_backend = "s3"\n[s3]\n{table}')
        (home / "config.toml").chmod(0o600)
    else:
        write_env(working if place == "working" else home, FULL | {"DATABASE_URL": "postgres://x", "S3_VERSION": "2"})
    found = load_remote_settings({}, *folders)
    assert bucket(found) == "sessions"
    assert not found.warnings


def test_the_order_of_the_places(folders: tuple[Path, Path]) -> None:
    working, home = folders
    (home / "config.toml").write_text('persistence_backend = "s3"\n[s3]\nbucket = "toml"\nregion = "toml"\n')
    write_env(home, {"S3_BUCKET": "home", "S3_REGION": "home"})
    environment = {"S3_BUCKET": "plain"}
    assert bucket(load_remote_settings(environment | {"TORPOR_S3_BUCKET": "ours"}, *folders)) == "ours"
    found = load_remote_settings(environment, *folders)
    assert found.s3 is not None
    assert (found.s3.bucket, found.s3.region) == ("plain", "home")
    assert bucket(load_remote_settings({}, *folders)) == "home"
    (home / ".env").unlink()
    assert bucket(load_remote_settings({"S3_BUCKET": ""}, *folders)) == "toml"
    (home / "config.toml").unlink()
    write_env(working, FULL | {"S3_BUCKET": "working"})
    assert bucket(load_remote_settings({}, *folders)) == "working"
    assert bucket(load_remote_settings(environment, *folders)) == "plain"
    assert bucket(load_remote_settings({}, working, working)) == "working"


@pytest.mark.parametrize("place", ["environment", "home", "toml", "off"])
def test_a_foreign_working_directory_cannot_send_sessions_elsewhere(folders: tuple[Path, Path], place: str) -> None:
    working, home = folders
    write_env(working, {"S3_ENDPOINT": "http://evil.example", "S3_PROXY": "http://evil.example:3128", "S3_REGION": "x"})
    environment = FULL if place == "environment" else {}
    if place == "home":
        write_env(home, FULL)
    if place == "toml":
        table = "".join(f'{k[3:].lower()} = "{v}"\n' for k, v in FULL.items() if k.startswith("S3_"))
        (home / "config.toml").write_text(f'persistence_backend = "s3"\n[s3]\n{table}')
        (home / "config.toml").chmod(0o600)
    if place == "off":
        write_env(home, {"PERSISTENCE_BACKEND": "local"})
        write_env(working, FULL)
    found = load_remote_settings(environment, *folders)
    if place == "off":
        assert found.s3 is None
    else:
        assert found.s3 is not None
        assert (found.s3.endpoint, found.s3.proxy, found.s3.region) == (FULL["S3_ENDPOINT"], None, None)
    assert str(working) in found.warnings[0]
    assert "S3_ENDPOINT" in found.warnings[0]
    assert "evil" not in found.warnings[0]


def test_a_working_directory_that_is_gone_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    assert working_directory() == gone
    gone.rmdir()
    assert working_directory() is None
    monkeypatch.undo()
    assert bucket(load_remote_settings(FULL, None, tmp_path)) == "sessions"


def test_a_pipe_or_a_device_does_not_hold_up_the_start(folders: tuple[Path, Path]) -> None:
    working, home = folders
    os.mkfifo(working / ".env")
    (home / ".env").symlink_to("/dev/zero")
    found = load_remote_settings({}, *folders)
    assert found.s3 is None
    assert all("is not a file" in warning for warning in found.warnings)
    assert len(found.warnings) == 2
    (working / ".env").unlink()
    (working / ".env").write_text("A=" + "x" * (300 << 10))
    assert "KiB" in load_remote_settings({}, *folders).warnings[1]


@pytest.mark.parametrize("missing", ["S3_BUCKET", "S3_ACCESS_KEY", "S3_SECRET_KEY"])
def test_what_is_missing_is_named(folders: tuple[Path, Path], missing: str) -> None:
    with pytest.raises(InvalidSettings, match=missing):
        load_remote_settings({k: v for k, v in FULL.items() if k != missing}, *folders)


def test_without_keys_the_chain_of_boto3_is_asked(folders: tuple[Path, Path]) -> None:
    environment = {"PERSISTENCE_BACKEND": "s3", "S3_BUCKET": "b", "S3_PROFILE": "work"}
    found = load_remote_settings(environment, *folders)
    assert found.s3 is not None
    assert (found.s3.options().access_key, found.s3.options().profile) == (None, "work")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PERSISTENCE_BACKEND", "redis"),
        ("S3_ENDPOINT", "s3.example.org:9000"),
        ("S3_ENDPOINT", "https://user:hush@s3.example.org"),
        ("S3_BUCKET", "bucket/folder"),
        ("S3_PREFIX", "a/../b"),
        ("S3_ADDRESSING", "sideways"),
        ("S3_CA_BUNDLE", "/nowhere/ca.pem"),
    ],
)
def test_what_is_wrong_is_named_and_not_shown(folders: tuple[Path, Path], name: str, value: str) -> None:
    with pytest.raises(InvalidSettings, match=name) as caught:
        load_remote_settings(FULL | {name: value}, *folders)
    assert "hush" not in str(caught.value)
    assert "the-secret-key" not in repr(caught.value)
    assert caught.value.hint


def test_a_lone_session_token_is_refused(folders: tuple[Path, Path]) -> None:
    with pytest.raises(InvalidSettings, match="S3_ACCESS_KEY and S3_SECRET_KEY"):
        load_remote_settings({"PERSISTENCE_BACKEND": "s3", "S3_BUCKET": "b", "S3_SESSION_TOKEN": "t"}, *folders)


def test_a_broken_line_of_ours_is_an_error_and_of_others_a_warning(folders: tuple[Path, Path]) -> None:
    working, home = folders
    write_env(home, FULL)
    (working / ".env").write_text("A=1\n'broken\n")
    found = load_remote_settings({}, working, home)
    assert bucket(found) == "sessions"
    assert "line 2" in found.warnings[0]
    (working / ".env").write_text("A=1\nS3_SECRET_KEY='the-secret\n")
    assert "does not count" in load_remote_settings({}, working, home).warnings[0]
    (home / ".env").unlink()
    with pytest.raises(InvalidSettings, match="line 2") as caught:
        load_remote_settings({}, working, home)
    assert "the-secret" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_said(folders: tuple[Path, Path]) -> None:
    working, home = folders
    (working / ".env").mkdir()
    (home / ".env").write_bytes(b"A=\xff\n")
    warnings = load_remote_settings(FULL, working, home).warnings
    assert [str(home) in warnings[0], str(working) in warnings[1]] == [True, True]


def test_keys_that_others_can_read_are_said(folders: tuple[Path, Path]) -> None:
    write_env(folders[0], FULL, mode=0o644)
    assert "chmod 600" in load_remote_settings({}, *folders).warnings[0]


def test_nothing_secret_is_shown(folders: tuple[Path, Path]) -> None:
    found = load_remote_settings(FULL | {"S3_PROXY": "http://me:hush@proxy:3128", "S3_SESSION_TOKEN": "tok"}, *folders)
    assert found.s3 is not None
    shown = repr(found) + repr(found.s3.options()) + str(found.s3) + found.s3.model_dump_json()
    for secret in ("the-secret-key", "the-access-key", "hush", "tok'"):
        assert secret not in shown


def test_one_file_is_read_once_when_the_folders_are_the_same(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("'broken\n")
    assert len(load_remote_settings({}, tmp_path, Path(os.path.abspath(tmp_path))).warnings) == 1
