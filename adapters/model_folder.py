"""The fingerprint of a model folder, without loading it: what loading it with `dtype="auto"` would give.

The model is built without memory (on the `meta` device), which tells every tensor's name, shape and dtype; the shards
must hold exactly those. Where loading would change them (another dtype, joined tensors, quantisation) the
weights are unknown, with the reason: load the model then.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch

from ..client.remembered import InProcess, Memory
from ..client.transfer import Progress, no_progress
from ..codec.weights import WeightDigests, WeightLine, weight_digests
from ..state.errors import InvalidFile, NotFound, TorporError, UnsupportedState
from ..state.fingerprint import Fingerprint
from .loaded_names import loaded_lines
from .lora import adapters_digest
from .lora_folder import adapters_in
from .model_configs import processor_part, quantization_part, template_part, text_parts, tokenizer_digest, vision_part
from .model_contents import Contents, contents_of, ties_of
from .model_identity import KV_LAYOUT, Identified, notes_of, window_of
from .shards import shard_lines, shard_paths

_PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "vocab.txt", "tokenizer.model")
_HINT = "Name a folder with config.json and safetensors, as `save_pretrained` writes it."


def describe_folder(
    folder: str | os.PathLike[str],
    *,
    adapter: str | os.PathLike[str] | None = None,
    memory: Memory | None = None,
    progress: Progress = no_progress,
) -> Identified:
    """Return the fingerprint of a model folder, with the reason for each part that is unknown.

    `adapter` is a folder as `peft` writes it. With `memory`, shards that were read before are not read again.
    Raises: NotFound, InvalidFile.
    """
    place = os.fspath(folder)
    config = _config(place)
    notes: dict[str, str] = {}
    skeleton = _noted(notes, "weights", lambda: _skeleton(config))
    weights = adapters = None
    if skeleton is not None:
        contents = contents_of(skeleton)  # before an adapter is put on it
        weights = _noted(notes, "weights", lambda: _weights(place, skeleton, contents, memory or InProcess(), progress))
        adapters = _noted(notes, "adapters", lambda: adapters_digest(adapters_in(_adapter(place, adapter), skeleton)))
    processor = _noted(notes, "processor", lambda: _processor(place))
    tokenizer = _noted(notes, "tokenizer", lambda: _tokenizer(place))
    text, rope = text_parts(config)
    fingerprint = Fingerprint(
        weights=weights.language if weights is not None else None,
        quantization=quantization_part(config),
        adapters=adapters,
        text_config=text,
        rope_config=rope,
        kv_dtype=str(skeleton.dtype).removeprefix("torch.") if skeleton is not None else None,
        kv_layout=KV_LAYOUT,
        cache_class="DynamicCache",
        vision_weights=vision_part(config, weights.vision if weights is not None else None),
        processor=processor_part(processor),
        tokenizer=tokenizer_digest(tokenizer),
        chat_template=template_part(tokenizer, processor),
    )
    problem = notes.get("weights")
    reasons = notes_of(fingerprint, problem, notes.get("adapters", problem)) | notes
    return Identified(fingerprint, reasons, window_of(config))


def _noted(notes: dict[str, str], part: str, find: Any) -> Any:
    """Return what is found, or None with the reason noted."""
    try:
        return find()
    except TorporError as error:
        notes[part] = error.detail
        return None


def _config(folder: str) -> Any:
    if not os.path.isdir(folder):
        raise NotFound(f"there is no folder {folder}", hint=_HINT)
    if not os.path.isfile(os.path.join(folder, "config.json")):
        raise NotFound(f"{folder} holds no config.json", hint=_HINT)
    from transformers import AutoConfig

    return _loaded(folder, "config.json", lambda: AutoConfig.from_pretrained(folder, local_files_only=True))


def _loaded(folder: str, what: str, load: Any) -> Any:
    """Translate whatever the library makes of a file that it cannot use."""
    try:
        return load()
    except Exception as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InvalidFile(f"{what} of {os.path.basename(folder) or folder}: {first}", hint=_HINT) from error


def _skeleton(config: Any) -> Any:
    """Build the model that the config names, without memory for its tensors."""
    import transformers

    if getattr(config, "quantization_config", None) is not None:
        raise UnsupportedState("the weights are quantised: what is in memory is known once the model is loaded")
    if getattr(config, "transformers_weights", None) is not None:
        raise UnsupportedState("the config names its files of weights itself")
    name = next(iter(config.architectures or ()), None)
    kind = getattr(transformers, name, None) if isinstance(name, str) else None
    if not isinstance(kind, type) or not hasattr(kind, "_from_config"):
        raise UnsupportedState(f"the transformers library has no model class {name!r:.80}")
    if config.dtype is None:
        raise UnsupportedState("the config does not say which dtype the weights are loaded as")
    with torch.device("meta"):
        return _loaded("", "config.json", lambda: kind._from_config(config, dtype=config.dtype))


def _weights(folder: str, skeleton: Any, contents: Contents, memory: Memory, progress: Progress) -> WeightDigests:
    """Digest the shards, where they hold what loading takes and nothing is changed by it."""
    if contents.values or contents.opaque:
        raise UnsupportedState("parts of the model keep more than tensors; what that is, is known once it is loaded")
    lines = loaded_lines(shard_lines(shard_paths(folder), memory, progress), skeleton)
    tied = dict(getattr(skeleton, "all_tied_weights_keys", None) or {})
    kept, plan = [], _upcast(skeleton)
    for name, tensor in contents.tensors:
        line = lines.get(name)
        if line is None:
            if tied.get(name) in lines or any(target in lines for target, source in tied.items() if source == name):
                continue  # it is a copy of another one
            raise UnsupportedState(f"{name} is in no shard")
        kept.append(_checked(line, tensor, plan))
    return weight_digests(kept, ties_of(contents.root))


def _checked(line: WeightLine, tensor: torch.Tensor, plan: Mapping[str, torch.dtype]) -> WeightLine:
    wanted = next((dtype for part, dtype in plan.items() if part in line.name), tensor.dtype)
    if line.shape != tuple(tensor.shape):
        raise UnsupportedState(f"{line.name} has the shape {line.shape}, the config says {tuple(tensor.shape)}")
    if line.dtype != str(wanted).removeprefix("torch."):
        raise UnsupportedState(f"{line.name} is stored as {line.dtype} and loaded as {wanted}; load the model instead")
    return line


def _upcast(skeleton: Any) -> dict[str, torch.dtype]:
    """Return the parts of names that are loaded as float32 whatever the model's dtype is."""
    strict = set(getattr(skeleton, "_keep_in_fp32_modules_strict", None) or ())
    loose = set(getattr(skeleton, "_keep_in_fp32_modules", None) or ())
    if skeleton.dtype == torch.float16:
        return dict.fromkeys(strict | loose, torch.float32)
    return dict.fromkeys(strict, torch.float32) if skeleton.dtype == torch.bfloat16 else {}


def _adapter(folder: str, adapter: str | os.PathLike[str] | None) -> str | None:
    """Return the folder of the adapter: loading a model takes one that lies beside it by itself."""
    if adapter is not None:
        return os.fspath(adapter)
    return folder if os.path.isfile(os.path.join(folder, "adapter_config.json")) else None


def _has(folder: str, names: tuple[str, ...]) -> bool:
    return any(os.path.isfile(os.path.join(folder, name)) for name in names)


def _tokenizer(folder: str) -> Any:
    from transformers import AutoTokenizer

    if not _has(folder, _TOKENIZER_FILES):
        raise NotFound("the folder holds no tokenizer")
    return _loaded(folder, "the tokenizer", lambda: AutoTokenizer.from_pretrained(folder, local_files_only=True))


def _processor(folder: str) -> Any:
    """Load the processor; where it cannot be (no torchvision), its image processor alone, as a program would."""
    from transformers import AutoImageProcessor, AutoProcessor

    if not _has(folder, _PROCESSOR_FILES):
        raise NotFound("the folder holds no processor")
    try:
        whole = _loaded(folder, "the processor", lambda: AutoProcessor.from_pretrained(folder, local_files_only=True))
    except InvalidFile:
        whole = None
    if whole is not None and hasattr(whole, "image_processor"):
        return whole
    return _loaded(folder, "the processor", lambda: AutoImageProcessor.from_pretrained(folder, local_files_only=True))
