"""The route that tells the settings in force; none of them is secret."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Response

from ..store.home import Home
from .answers import json_answer
from .settings import Settings


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting: its value, the one it would have, what it is for, and the variable that sets it."""

    name: str
    value: Any
    default: Any
    description: str
    variable: str


@dataclass(frozen=True, slots=True)
class SettingList:
    """The settings, and the file in which they may stand."""

    file: str
    settings: list[Setting]


def add_settings(app: FastAPI, settings: Settings, home: Home) -> None:
    """Add the route."""
    found = SettingList(str(home.root / "config.toml"), listed(settings))

    @app.get("/v1/settings", response_model=SettingList)
    def get_settings() -> Response:
        """Tell the settings in force, as they were read when the daemon started."""
        return json_answer(found)


def listed(settings: Settings) -> list[Setting]:
    """Return the settings in the order in which they are declared."""
    prefix = settings.model_config.get("env_prefix", "")
    return [
        Setting(
            name,
            getattr(settings, name),
            field.get_default(call_default_factory=True, validated_data={}),
            field.description or "",
            prefix + name.upper(),
        )
        for name, field in type(settings).model_fields.items()
    ]
