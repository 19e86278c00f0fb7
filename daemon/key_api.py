"""The routes of keys. Passphrases come in by them and go nowhere else: not into a log, an error, or a file."""

from __future__ import annotations

from fastapi import FastAPI, Response
from pydantic import BaseModel, ConfigDict, SecretStr, StrictBool

from .answers import private_answer
from .key_desk import KeyDesk


class Init(BaseModel):
    """A passphrase that opens the bucket's keys, or protects a first one; and keys from paper."""

    model_config = ConfigDict(extra="forbid")
    passphrase: SecretStr
    recovery: SecretStr | None = None


class Rotate(BaseModel):
    """The bucket's passphrase, or with `new_passphrase` the one that it gets."""

    model_config = ConfigDict(extra="forbid")
    passphrase: SecretStr
    new_passphrase: StrictBool = False


def add_keys(app: FastAPI, desk: KeyDesk) -> None:
    """Add the routes to the application."""

    @app.get("/v1/key")
    def get_keys() -> Response:
        """Say which keys the bucket and this machine have; no secret."""
        return private_answer(desk.describe())

    @app.post("/v1/key/init")
    def init(wanted: Init) -> Response:
        """Make the bucket's first key, or unlock it on this machine."""
        recovery = None if wanted.recovery is None else wanted.recovery.get_secret_value()
        return private_answer(desk.init(wanted.passphrase.get_secret_value(), recovery))

    @app.post("/v1/key/rotate")
    def rotate(wanted: Rotate) -> Response:
        """Encrypt with a new key from now on."""
        passphrase = wanted.passphrase.get_secret_value()
        return private_answer(desk.rotate(passphrase, new_passphrase=wanted.new_passphrase))

    @app.post("/v1/key/recovery")
    def recovery() -> Response:
        """Return the keys as a text for paper."""
        return private_answer({"recovery": desk.recovery()})
