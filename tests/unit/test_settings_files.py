"""Single settings written into config.toml and .env: all else stays, and what cannot be done safely is refused."""

from __future__ import annotations

import os
import tomllib
from io import StringIO
from pathlib import Path

import pytest
from dotenv.parser import parse_stream
from hypothesis import given
from hypothesis import strategies as st
from torpor.daemon.remote_settings import load_remote_settings, settings_of, variables_of
from torpor.daemon.settings_files import set_in_env, set_in_toml, with_env, with_toml
from torpor.state.errors import BadInput, InvalidSettings, UnsafeHome

TOML = '# mine\nport = 1 # one\n\n[s3]\nbucket = "b"\nquota = "of the table"\n'


def test_a_value_goes_before_the_tables_and_all_else_stays() -> None:
    made = with_toml(TOML, "quota", "200GB")
    assert tomllib.loads(made) == tomllib.loads(TOML) | {"quota": "200GB"}
    assert made.startswith('# mine\nport = 1 # one\nquota = "200GB"\n\n[s3]')
    assert with_toml(made, "quota", "200GB") == made
    again = with_toml(made, "quota", "1%")
    assert again == made.replace("200GB", "1%")
    assert with_toml("", "quota", 'a"b\\') == 'quota = "a\\"b\\\\"\n'


@pytest.mark.parametrize(
    "text",
    ['quota = """\n1%\n"""\n', '"quota" = "1%"\n', 'note = """\nquota = 3\n"""\n', "not toml", "quota = {a=1}\n["],
)
def test_what_an_edit_of_lines_would_spoil_is_refused(text: str) -> None:
    with pytest.raises(InvalidSettings):
        with_toml(text, "quota", "2%")


def parsed(text: str) -> dict[str, str | None]:
    return {each.key: each.value for each in parse_stream(StringIO(text)) if each.key}


@given(st.text(st.characters(min_codepoint=32, exclude_categories=("C", "Z")) | st.just(" "), min_size=1))
def test_every_printable_value_comes_back(value: str) -> None:
    made = with_env("# c\nS3_SECRET_KEY=old\nOTHER=x", {"S3_SECRET_KEY": value, "S3_BUCKET": "b"})
    assert parsed(made) == {"S3_SECRET_KEY": value, "OTHER": "x", "S3_BUCKET": "b"}
    assert made.startswith("# c\n")


def test_the_longer_names_and_second_lines_go_along() -> None:
    text = "export S3_BUCKET=a\nTORPOR_S3_BUCKET=b\nS3_BUCKET=c\nS3_REGION=r\nKEEP='multi\nline'\n"
    made = with_env(text, {"S3_BUCKET": "d", "S3_REGION": None})
    assert parsed(made) == {"S3_BUCKET": "d", "KEEP": "multi\nline"}
    assert made.count("S3_BUCKET") == 1
    assert with_env(made, {"S3_BUCKET": "d", "S3_REGION": None}) == made
    with pytest.raises(InvalidSettings, match="S3_BUCKET"):
        with_env("", {"S3_BUCKET": "a\nPERSISTENCE_BACKEND=local"})


def test_files_are_private_and_links_are_left_alone(tmp_path: Path) -> None:
    env, toml = tmp_path / ".env", tmp_path / "config.toml"
    env.write_text("A=1\n")
    env.chmod(0o644)
    assert set_in_env(env, {"S3_SECRET_KEY": "k"})
    assert not set_in_env(env, {"S3_SECRET_KEY": "k"})
    assert env.read_text() == "A=1\nS3_SECRET_KEY=k\n"
    assert env.stat().st_mode & 0o777 == 0o600
    kept = tmp_path / "kept"
    kept.write_text("port = 1\n")
    toml.symlink_to(kept)
    with pytest.raises(UnsafeHome):
        set_in_toml(toml, "quota", "1%")
    assert kept.read_text() == "port = 1\n"
    assert sorted(os.listdir(tmp_path)) == [".env", "config.toml", "kept"]
    env.write_bytes(b"\xff")
    with pytest.raises(BadInput):
        set_in_env(env, {"A": "b"})


def test_settings_come_back_from_the_variables_that_they_are(tmp_path: Path) -> None:
    wanted = settings_of(
        {
            "bucket": "b",
            "endpoint": "https://s3.example.org/",
            "access_key": "a",
            "secret_key": " k'# ",
            "prefix": "p/q",
        }
    )
    variables = variables_of(wanted)
    assert {name for name, value in variables.items() if value is None} >= {"S3_REGION", "S3_PROXY", "S3_STALL_S"}
    set_in_env(tmp_path / ".env", variables)
    assert load_remote_settings({}, None, tmp_path).s3 == wanted
    assert "k'" not in repr(wanted)
