"""`torpor fingerprint`: what a model folder is, told by digests, without loading the model."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from ..client import TargetState, connect
from ..client.remembered import InProcess, Memory
from ..state.errors import BadInput, DaemonNotRunning, MissingExtra
from ..state.fingerprint import Fingerprint
from . import output
from .output import show
from .progress import bar


def fingerprint(
    folder: Annotated[Path, typer.Argument(help="A model folder: config.json, safetensors shards, tokenizer.")],
    adapter: Annotated[Path | None, typer.Option(help="A LoRA adapter's folder, as `peft` writes it.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """Digest a model folder. What was read once is remembered by the daemon, if it runs."""
    with _memory() as memory:
        found = target_of_folder(folder, adapter, memory, as_json)
    parts = found.fingerprint.to_dict()
    value = {"path": str(folder), "fingerprint": parts, "notes": dict(found.notes)}

    def render() -> Any:
        rows = output.table("!part", "digest")
        for name, digest in parts.items():
            rows.add_row(name, digest if digest is not None else f"unknown: {found.notes.get(name, 'not told')}")
        return rows

    show(value, as_json, render)


@contextmanager
def _memory() -> Iterator[Memory]:
    try:
        keeper = connect()
    except DaemonNotRunning:
        yield InProcess()
        return
    with keeper:
        yield keeper.memory


def target_of_folder(folder: Path, adapter: Path | None, memory: Memory, as_json: bool) -> TargetState:
    """Return what waking a session in a folder's model would be. Raises: NotFound, InvalidFile, MissingExtra."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    try:
        from ..adapters.model_folder import describe_folder
    except ModuleNotFoundError as error:
        raise MissingExtra(f"{error.name} is not installed: pip install 'torpor[transformers]'") from error
    with bar(f"reading {folder.name}", as_json) as told:
        found = describe_folder(folder, adapter=adapter, memory=memory, progress=told)
    return TargetState(
        found.fingerprint,
        cache_classes=("StaticCache",),  # what a TransformersTarget takes beside its own
        window_tokens=found.window_tokens,
        notes=found.notes,
    )


def target_of_file(path: Path) -> TargetState:
    """Read a fingerprint as `torpor fingerprint --json` and `torpor show --json` print it. Raises: BadInput."""
    try:
        value = orjson.loads(path.read_bytes())
        if isinstance(value, dict) and isinstance(value.get("fingerprint"), dict):
            return TargetState(Fingerprint(**value["fingerprint"]), notes=value.get("notes") or {})
        return TargetState(Fingerprint(**value))
    except (OSError, TypeError, orjson.JSONDecodeError) as error:
        hint = "`torpor fingerprint FOLDER --json` prints one."
        raise BadInput(f"{path} is not a fingerprint: {error}", hint=hint) from error
