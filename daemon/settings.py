"""Settings of the daemon: `config.toml` in the home folder, then `TORPOR_*` in the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import orjson
from pydantic import Field, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from ..state.errors import InvalidSettings
from ..state.kv_limits import DEFAULT_MAX_TOKENS
from ..state.quota import parse_limit
from ..store.home import Home

DAY_S = 86_400.0


class Settings(BaseSettings):
    """What the user may set. Every field has an environment variable: its name in capitals behind `TORPOR_`."""

    model_config = SettingsConfigDict(env_prefix="TORPOR_", extra="ignore", frozen=True)

    port: int = Field(7717, ge=0, le=65535, description="TCP port on 127.0.0.1; 0 takes any free one")
    ttl_days: float = Field(7.0, gt=0, description="how long a backup is kept unless it is pinned")
    keep_newest: int = Field(0, ge=0, description="backups of each session that outlive their TTL, the newest")
    quota: str = Field("20%", description="what the home may take: a share of its disk, or a size such as 200GB")
    soft_quota: str = Field("90%", description="from there on what can be had again is let go: a share of the quota")
    free_floor: str | None = Field(None, description="left free on the disk: by default 5% of it, at most 5 GiB")
    allow_network_home: bool = Field(False, description="accept a network file system as home, against the advice")
    allowed_hosts: list[str] = Field(
        default_factory=list, description="further Host headers to accept, e.g. of a container"
    )
    max_recoverable_tokens: int = Field(
        DEFAULT_MAX_TOKENS, ge=64, description="tokens of a KV cache that a restore takes over; the rest is prefilled"
    )
    orphan_grace_hours: float = Field(
        24.0, ge=0, description="age at which a blob that no backup needs goes to the trash"
    )
    condemn_after_hours: float = Field(72.0, ge=0, description="age at which an object nobody needs is condemned")
    delete_after_hours: float = Field(24.0, ge=0, description="time between that and its deletion from the bucket")
    remote_format: Literal["v2", "v1"] = Field(
        "v2", description="`v1` puts plain `backups/<id>.qwnbak` objects into the bucket as well"
    )
    scrub_mib_s: float = Field(
        8.0, ge=0, description="MiB a second at which blobs are read again in the background; 0 never does"
    )
    scrub_days: float = Field(30.0, gt=0, description="time from the beginning of one scrub to that of the next")
    heavy_on_battery: bool = Field(
        False, description="upload KV caches, scrub and collect on battery as well, instead of on mains power only"
    )
    watch: Annotated[list[str], NoDecode] = Field(
        default_factory=list, description="folders to watch; in the environment a JSON list, or separated by `:`"
    )
    key_storage: Literal["auto", "keyring", "file"] = Field(
        "auto", description="where the bucket's key is kept: the system's keyring, a file, or `auto`"
    )
    client_timeout_s: float = Field(
        10.0, gt=0, description="how long a client may take over the head of a request, or over 10 KiB of its body"
    )
    tray_panel: Literal["auto", "dark", "light"] = Field(
        "auto", description="what the tray's icon lies on: `auto` asks the desktop, and is readable on both if in doubt"
    )
    log_format: Literal["text", "json"] = Field(
        "text", description="of `logs/daemon.log`: a JSON object a line, or text"
    )
    log_level: str = Field("info", pattern="^(debug|info|warning|error)$", description="of the log, and all above it")

    @field_validator("watch", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if value.lstrip().startswith("["):
            return orjson.loads(value)
        return [folder for folder in value.split(os.pathsep) if folder]

    @field_validator("watch")
    @classmethod
    def _absolute(cls, value: list[str]) -> list[str]:
        folders = [os.path.expanduser(folder) for folder in value]
        if relative := [folder for folder in folders if not os.path.isabs(folder) or "\0" in folder]:
            raise ValueError(f"{relative[0]!r} is not an absolute path")
        return folders

    @field_validator("quota", "soft_quota", "free_floor")
    @classmethod
    def _a_limit(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                parse_limit(value, 100)
            except InvalidSettings as error:
                raise ValueError(f"{error.detail}. {error.hint}") from error
        return value

    @property
    def ttl_s(self) -> float:
        """Return the default TTL in seconds."""
        return self.ttl_days * DAY_S

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Order the sources: explicit values, environment, then the file."""
        home = Home.from_environment(os.environ)
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, home.root / "config.toml")


def load_settings(overrides: Mapping[str, Any] | None = None) -> Settings:
    """Read the settings. Raises: InvalidSettings."""
    try:
        return Settings(**{k: v for k, v in (overrides or {}).items() if v is not None})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        raise InvalidSettings(f"{name}: {first['msg']}") from error
    except (OSError, ValueError) as error:
        raise InvalidSettings(f"config.toml cannot be read: {error}") from error
