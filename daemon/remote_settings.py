"""Where the bucket is, as the user says it.

Every name may have `TORPOR_` before it, which goes first. The places, each over the next: the environment, `.env` in
the working directory, `.env` in the home folder, and `config.toml` there (`persistence_backend`, and the table `[s3]`
with `endpoint`, `access_key`, …). Only `PERSISTENCE_BACKEND=s3` turns it on: other programs have S3_* variables too.

The `.env` of the working directory may have come with somebody else's files. So it counts only where no other place
says `PERSISTENCE_BACKEND`: it cannot send elsewhere what the user has arranged.
"""

from __future__ import annotations

import errno
import io
import os
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator

from ..state.errors import InvalidSettings
from ..sync.s3_client import CONNECT_TIMEOUT_S, DEADLINE_S, STALL_S, S3Options

BACKEND = "PERSISTENCE_BACKEND"
MAX_ENV_BYTES = 256 << 10
HINT = (
    "`PERSISTENCE_BACKEND=s3`, `S3_ENDPOINT`, `S3_ACCESS_KEY`, `S3_SECRET_KEY` and `S3_BUCKET` are all that is needed."
)
_SECRETS = ("S3_ACCESS_KEY", "S3_SECRET_KEY", "S3_SESSION_TOKEN")


class S3Settings(BaseModel):
    """The S3_* variables, by their names in small letters without `S3_`. Without keys, boto3's own chain is asked."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    bucket: str
    endpoint: str | None = None
    access_key: SecretStr | None = None
    secret_key: SecretStr | None = None
    session_token: SecretStr | None = None
    profile: str | None = None
    region: str | None = None
    prefix: str = ""
    addressing: Literal["auto", "path", "virtual"] = "auto"
    ca_bundle: str | None = None
    proxy: SecretStr | None = None
    connect_timeout_s: float = Field(CONNECT_TIMEOUT_S, gt=0)
    stall_s: float = Field(STALL_S, gt=0)
    deadline_s: float = Field(DEADLINE_S, gt=0)

    @field_validator("bucket")
    @classmethod
    def _one_name(cls, value: str) -> str:
        if "/" in value or not value.isprintable() or " " in value:
            raise ValueError(
                "a bucket's name has no slash and no space; what stands behind a slash goes into S3_PREFIX"
            )
        return value

    @field_validator("endpoint")
    @classmethod
    def _an_address(cls, value: str | None) -> str | None:
        parts = urlsplit(value or "https://aws")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("an address begins with https:// or http://, e.g. https://s3.example.org")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError("an address holds no keys and no query; keys go into S3_ACCESS_KEY and S3_SECRET_KEY")
        return value.rstrip("/") if value else None

    @field_validator("prefix")
    @classmethod
    def _a_folder(cls, value: str) -> str:
        if any(part in (".", "..", "") for part in value.strip("/").split("/") if value) or not value.isprintable():
            raise ValueError("a prefix is names between slashes, without `.` and `..`")
        return value.strip("/")

    @field_validator("ca_bundle")
    @classmethod
    def _a_file(cls, value: str | None) -> str | None:
        path = os.path.expanduser(value) if value else None
        if path is not None and not os.access(path, os.R_OK):
            raise ValueError("the file with the certificates cannot be read")
        return path

    @model_validator(mode="after")
    def _keys_in_pairs(self) -> S3Settings:
        names = {"S3_ACCESS_KEY": self.access_key, "S3_SECRET_KEY": self.secret_key}
        missing = [name for name, value in names.items() if value is None]
        if len(missing) == 1 or (missing and self.session_token):
            raise ValueError(f"{' and '.join(missing)} must be set as well")
        return self

    def options(self) -> S3Options:
        """Return what the bucket is opened with. A profile is not asked where there are keys."""
        return S3Options(
            bucket=self.bucket,
            endpoint=self.endpoint,
            access_key=_shown(self.access_key),
            secret_key=_shown(self.secret_key),
            session_token=_shown(self.session_token),
            profile=self.profile,
            region=self.region,
            prefix=self.prefix,
            addressing=self.addressing,
            ca_bundle=self.ca_bundle,
            proxy=_shown(self.proxy),
            connect_timeout_s=self.connect_timeout_s,
            stall_s=self.stall_s,
            deadline_s=self.deadline_s,
        )


@dataclass(frozen=True, slots=True)
class RemoteSettings:
    """What was found: `s3` is None when it is off. `origin` names the places; `warnings` are for all to see."""

    s3: S3Settings | None
    origin: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def load_remote_settings(environment: Mapping[str, str], working: Path | None, home: Path) -> RemoteSettings:
    """Read the settings of the second copy. Without a working directory, those of the other places.

    Raises: InvalidSettings, which names what is missing or wrong.
    """
    warnings: list[str] = []
    places = [_Place("the environment", environment)]
    places += _places_of(home, warnings)
    if working is not None and working != home:
        _add_working(working / ".env", places, warnings)
    if not _is_on(places):
        return RemoteSettings(None, (), tuple(warnings))
    found = {name: _found(f"S3_{name.upper()}", places) for name in S3Settings.model_fields}
    values = {name: value for name, (value, _) in found.items() if value}
    origin = tuple(dict.fromkeys(place for value, place in found.values() if value))
    return RemoteSettings(_checked(values), origin, (*warnings, *_readable_by_others(places)))


def known_values(environment: Mapping[str, str], home: Path) -> dict[str, str]:
    """Return what the environment and the home say of a bucket, by the names of S3Settings, whether it is on or not.

    Raises: InvalidSettings.
    """
    places = [_Place("the environment", environment), *_places_of(home, [])]
    found = {name: _found(f"S3_{name.upper()}", places)[0] for name in S3Settings.model_fields}
    return {name: value for name, value in found.items() if value}


def settings_of(values: Mapping[str, str]) -> S3Settings:
    """Return what values say, by the names of S3Settings; empty ones are none. Raises: InvalidSettings."""
    return _checked({name: value.strip() for name, value in values.items() if value.strip()})


def variables_of(settings: S3Settings) -> dict[str, str | None]:
    """Return the variables that turn the second copy on with these settings; None for those that are not set.

    The values hold secrets.
    """
    found: dict[str, str | None] = {BACKEND: "s3"}
    for name, about in S3Settings.model_fields.items():
        value = getattr(settings, name)
        text = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
        found[f"S3_{name.upper()}"] = None if value == about.default else text
    return found


def working_directory() -> Path | None:
    """Return the working directory; None for one that was removed."""
    try:
        return Path.cwd()
    except FileNotFoundError:
        return None


def _add_working(file: Path, places: list[_Place], warnings: list[str]) -> None:
    """Let the `.env` of the working directory count behind the environment, unless another place decides."""
    decided, place = _found(BACKEND, places)
    if not decided:
        places.insert(1, _Place(str(file), _read_env(file, warnings)))
        return
    try:
        values = _read_env(file, warnings)
    except InvalidSettings as error:
        warnings.append(f"{error.detail}; it does not count here")
        return
    ours = sorted(name for name in values if name.removeprefix("TORPOR_").startswith((BACKEND, "S3_")))
    if ours:
        said = f"{place} says {BACKEND}, so that what {file} says of the second copy does not count"
        warnings.append(f"{said} ({', '.join(ours)[:200]})")


@dataclass(frozen=True, slots=True)
class _Place:
    name: str
    values: Mapping[str, str] = field(repr=False)


def _places_of(home: Path, warnings: list[str]) -> list[_Place]:
    env, toml = home / ".env", home / "config.toml"
    return [_Place(str(env), _read_env(env, warnings)), _Place(str(toml), _read_toml(toml))]


def _found(name: str, places: list[_Place]) -> tuple[str, str]:
    """Return a variable's value and place; an empty one is as good as none."""
    for place in places:
        for key in (f"TORPOR_{name}", name):
            if value := place.values.get(key, "").strip():
                return value, place.name
    return "", ""


def _is_on(places: list[_Place]) -> bool:
    backend, place = _found(BACKEND, places)
    if backend.lower() not in ("", "s3", "local"):
        raise InvalidSettings(f"{BACKEND} in {place} is neither `s3` nor `local`", hint=HINT)
    return backend.lower() == "s3"


def _checked(values: Mapping[str, str]) -> S3Settings:
    if "bucket" not in values:
        rest = {"S3_ENDPOINT": "endpoint", "S3_ACCESS_KEY": "access_key", "S3_SECRET_KEY": "secret_key"}
        also = [name for name, key in rest.items() if key not in values]
        more = f" (nor {', '.join(also)}, which AWS and boto3's own credentials can do without)" if also else ""
        raise InvalidSettings(f"{BACKEND} is s3, but S3_BUCKET is not set{more}", hint=HINT)
    try:
        return S3Settings.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        name = "".join(f"S3_{str(part).upper()}: " for part in first["loc"][:1])
        raise InvalidSettings(f"{name}{first['msg'].removeprefix('Value error, ')}", hint=HINT) from None


def _read_env(file: Path, warnings: list[str]) -> dict[str, str]:
    """Read a `.env`. What is wrong with foreign lines is a warning; a broken line of ours is an error."""
    from dotenv.parser import parse_stream

    try:
        text = _small_text(file)
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        warnings.append(f"{file} cannot be read ({reason}); nothing was taken from it")
        return {}
    bindings = list(parse_stream(io.StringIO(text)))
    for binding in bindings:
        if binding.error:
            _say_broken(file, binding.original.string, binding.original.line, warnings)
    return {binding.key: binding.value for binding in bindings if binding.key and binding.value is not None}


def _small_text(file: Path) -> str:
    """Read a file that may be anything: neither a pipe nor a device holds up the start."""
    fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "it is not a file")
        raw = os.read(fd, MAX_ENV_BYTES + 1)
    finally:
        os.close(fd)
    if len(raw) > MAX_ENV_BYTES:
        raise OSError(errno.EFBIG, f"it has more than {MAX_ENV_BYTES >> 10} KiB")
    return raw.decode()


def _say_broken(file: Path, text: str, line: int, warnings: list[str]) -> None:
    said = f"{file}: line {line} is not NAME=value"  # what stands there may be secret
    if any(name in text for name in (BACKEND, "S3_")):
        raise InvalidSettings(said, hint=HINT)
    warnings.append(f"{said}; it was left out")


def _read_toml(file: Path) -> dict[str, str]:
    """Read `persistence_backend` and `[s3]` under the names that they have in the environment."""
    try:
        with open(file, "rb") as stream:
            found = tomllib.load(stream)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise InvalidSettings(f"config.toml cannot be read: {error}") from error
    table = found.get("s3", {})
    if not isinstance(table, dict):
        raise InvalidSettings("config.toml: `s3` is a table: [s3]", hint=HINT)
    named: dict[str, Any] = {f"S3_{name.upper()}": value for name, value in table.items()}
    named[BACKEND] = found.get("persistence_backend", "")
    if wrong := [name for name, value in named.items() if not isinstance(value, str)]:
        raise InvalidSettings(f"config.toml: {wrong[0]} is not a text", hint=HINT)
    return named


def _readable_by_others(places: list[_Place]) -> list[str]:
    """Warn of files with keys that other users may read."""
    return [
        f"{place.name} holds keys and can be read by other users; `chmod 600 {place.name}`"
        for place in places[1:]
        if any(place.values.get(prefix + name) for name in _SECRETS for prefix in ("", "TORPOR_"))
        and os.stat(place.name).st_mode & 0o077
    ]


def _shown(secret: SecretStr | None) -> str | None:
    return secret.get_secret_value() if secret is not None else None
