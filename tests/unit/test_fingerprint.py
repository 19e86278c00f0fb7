"""What a model is, from memory and from its folder: the same digests, and others for everything that differs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.model_folders import (
    copied,
    describe,
    flip,
    load_folder,
    rewrite,
    same_weights,
    save_folder,
    shards,
    tied_model,
)
from torch import nn
from torpor.adapters import model_configs
from torpor.adapters.demo_model import Loaded, byte_tokenizer, small_model
from torpor.adapters.model_folder import describe_folder
from torpor.adapters.model_identity import describe_model, fingerprint_of, tokenizer_digest
from torpor.adapters.shards import shard_lines, shard_paths
from torpor.client.remembered import InProcess
from torpor.state.errors import FileDamaged, InvalidFile, NotFound, TorporError, UnknownFormat


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    return small_model()


@pytest.fixture(scope="module")
def folder(loaded: Loaded, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_folder(loaded, tmp_path_factory.mktemp("models") / "a-model")


def weights(model: Any) -> str | None:
    return fingerprint_of(model).weights


# From memory and from files.


def test_a_folder_is_what_loading_it_gives(folder: Path, loaded: Loaded) -> None:
    found = describe_folder(folder)
    assert found.notes == {}
    assert found.fingerprint == describe(load_folder(folder)).fingerprint == describe(loaded).fingerprint
    assert found.window_tokens == 32_768
    assert len(shards(folder)) > 2


@pytest.mark.parametrize("shard", ["1MB", "1GB"])
def test_name_path_and_shards_do_not_matter(folder: Path, loaded: Loaded, tmp_path: Path, shard: str) -> None:
    other = save_folder(loaded, tmp_path / "under" / "another-name", shard)
    assert len(shards(other)) != len(shards(folder))
    assert describe_folder(other).fingerprint == describe_folder(folder).fingerprint
    assert describe(load_folder(other)).fingerprint == describe(loaded).fingerprint


def test_other_weights_under_the_same_name(folder: Path) -> None:
    other = small_model(seed=1)
    other.model.config._name_or_path = str(folder)
    assert set(describe(other).fingerprint.differing(describe_folder(folder).fingerprint, tuple(PARTS))) == {
        "weights",
        "vision_weights",
    }


PARTS = describe_model(small_model().model).fingerprint.to_dict()


@pytest.mark.parametrize("keep", ["one", "both", "the other"])
def test_a_tied_head_counts_once(tmp_path: Path, keep: str) -> None:
    loaded = tied_model()
    folder = save_folder(loaded, tmp_path / "tied", "1GB")

    def change(tensors: dict[str, torch.Tensor]) -> None:
        (name,) = (n for n in tensors if n.endswith("embed_tokens.weight"))
        assert "lm_head.weight" not in tensors
        if keep != "one":
            tensors["lm_head.weight"] = tensors[name].clone()
        if keep == "the other":
            del tensors[name]

    rewrite(folder / "model.safetensors", change)
    assert same_weights(describe_folder(folder), describe(load_folder(folder)))
    assert same_weights(describe_folder(folder), describe(loaded))


def test_an_untied_head_of_the_same_bytes_is_a_tie(loaded: Loaded) -> None:
    own = small_model()
    own.model.lm_head.weight.data.copy_(own.model.get_input_embeddings().weight)
    assert weights(own.model) == weights(tied_model().model) != weights(loaded.model)


def test_the_next_process_need_not_sort_a_vocabulary(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    memory, first = InProcess(), byte_tokenizer()
    known = tokenizer_digest(first, memory)
    assert known == tokenizer_digest(byte_tokenizer()) == describe(loaded).fingerprint.tokenizer
    monkeypatch.setattr(model_configs, "digest_json", lambda value: pytest.fail("digested anew"))
    assert tokenizer_digest(byte_tokenizer(), memory) == known
    monkeypatch.undo()
    other = byte_tokenizer(merges=("th",))
    assert tokenizer_digest(other, memory) != known


def test_buffers_that_follow_from_the_config_do_not_count(loaded: Loaded) -> None:
    own = small_model()
    own.model.model.language_model.rotary_emb.inv_freq.mul_(2)
    assert weights(own.model) == weights(loaded.model)
    own.model.model.register_buffer("told", torch.ones(3))
    assert weights(own.model) != weights(loaded.model)


# What is wrong with a folder is noticed, and said.


def lines_of(folder: Path) -> Any:
    return shard_lines(shard_paths(str(folder)), InProcess())


def test_one_flipped_bit(folder: Path, tmp_path: Path) -> None:
    other = copied(folder, tmp_path / "m")
    flip(shards(other)[0])
    found = describe_folder(other)
    assert found.notes == {}
    assert not same_weights(found, describe_folder(folder))


def test_a_flipped_bit_in_the_vision_tower_alone(folder: Path, tmp_path: Path) -> None:
    other = copied(folder, tmp_path / "m")
    (shard,) = (s for s in shards(other) if b"visual.pos_embed.weight" in s.read_bytes()[:20_000])
    rewrite(shard, lambda tensors: tensors["model.visual.pos_embed.weight"].view(torch.int16)[3, 3].add_(1))
    assert describe_folder(other).fingerprint.differing(describe_folder(folder).fingerprint, tuple(PARTS)) == (
        "vision_weights",
    )


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _long_header(path: Path) -> None:
    path.write_bytes(b"\xff" * 7 + b"\x7f" + path.read_bytes()[8:])


def _garbage_header(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:8] + b"[" * 40 + data[48:])


def _overlap(path: Path) -> None:
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    table = json.loads(data[8 : 8 + length])
    first = min((v["data_offsets"], k) for k, v in table.items() if k != "__metadata__")[1]
    table[first]["data_offsets"] = [8, 8 + table[first]["data_offsets"][1]]
    text = json.dumps(table).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])


@pytest.mark.parametrize(
    ("damage", "error", "word"),
    [
        (_truncate, FileDamaged, "tensors have"),
        (_long_header, FileDamaged, "header should have"),
        (_garbage_header, InvalidFile, ""),
        (_overlap, InvalidFile, "does not lie where"),
        (lambda path: path.write_bytes(b""), FileDamaged, ""),
        (Path.unlink, NotFound, "1 of 4 shards are missing"),
    ],
)
def test_damaged_shards(
    folder: Path, tmp_path: Path, damage: Callable[[Path], Any], error: type[TorporError], word: str
) -> None:
    other = copied(folder, tmp_path / "m")
    damage(shards(other)[1])
    found = describe_folder(other)
    assert (found.fingerprint.weights, found.fingerprint.vision_weights) == (None, None)
    assert word in found.notes["weights"]
    assert shards(folder)[1].name in found.notes["weights"]
    assert found.fingerprint.tokenizer is not None
    with pytest.raises(error):
        lines_of(other)


def test_an_index_that_points_out_of_the_folder(folder: Path, tmp_path: Path) -> None:
    other = copied(folder, tmp_path / "m")
    for names in ({"w": "../../etc/passwd"}, {}, {"w": 3}, ["w"]):
        (other / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
        with pytest.raises(InvalidFile):
            lines_of(other)


def test_a_tensor_that_two_shards_hold(folder: Path, tmp_path: Path) -> None:
    other = copied(folder, tmp_path / "m")
    first, second = shards(other)[:2]
    from safetensors.torch import load_file

    name, tensor = next(iter(load_file(first).items()))
    rewrite(second, lambda tensors: tensors.update({name: tensor}))
    assert "once more" in describe_folder(other).notes["weights"]


def test_other_formats(folder: Path, tmp_path: Path) -> None:
    other = copied(folder, tmp_path / "m")
    for shard in shards(other):
        shard.unlink()
    (other / "model.safetensors.index.json").unlink()
    with pytest.raises(NotFound):
        shard_paths(str(other))
    (other / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(UnknownFormat):
        shard_paths(str(other))
    assert "pytorch_model.bin" in describe_folder(other).notes["weights"]


def test_weights_that_loading_would_change_are_unknown(folder: Path, tmp_path: Path) -> None:
    other = copied(folder, tmp_path / "m")
    (shard,) = (s for s in shards(other) if b"language_model.norm.weight" in s.read_bytes()[:20_000])
    name = "model.language_model.norm.weight"
    rewrite(shard, lambda tensors: tensors.update({name: tensors[name].float()}))
    assert "stored as float32" in describe_folder(other).notes["weights"]
    rewrite(shard, lambda tensors: tensors.update({name: torch.ones(3, dtype=torch.bfloat16)}))
    assert "shape" in describe_folder(other).notes["weights"]
    rewrite(shard, lambda tensors: tensors.update({"renamed": tensors.pop(name)}))
    assert "in no shard" in describe_folder(other).notes["weights"]


def _config(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    value = json.loads((folder / "config.json").read_text())
    change(value)
    (folder / "config.json").write_text(json.dumps(value))


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda c: c.update(architectures=["NoSuchModel"]), "weights"),
        (lambda c: c.update(quantization_config={"quant_method": "fp8"}), "weights"),
        (lambda c: c.pop("dtype"), "weights"),
    ],
)
def test_configs_that_leave_the_weights_unknown(folder: Path, tmp_path: Path, change: Any, part: str) -> None:
    other = copied(folder, tmp_path / "m")
    _config(other, change)
    found = describe_folder(other)
    assert found.fingerprint.part(part) is None
    assert found.notes[part]
    assert found.fingerprint.text_config == describe_folder(folder).fingerprint.text_config


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (lambda c: c["text_config"]["rope_parameters"].update(rope_theta=5e5), ("rope_config",)),
        (lambda c: c["text_config"].update(rms_norm_eps=1e-5), ("text_config",)),
        (lambda c: c["vision_config"].update(deepstack_visual_indexes=[0, 1]), None),
        (lambda c: c.update(image_token_id=3), ("text_config",)),
        (lambda c: c.update(transformers_version="0"), ()),
        (lambda c: c["text_config"].update(pad_token_id=5), ()),
    ],
)
def test_configs_count(folder: Path, tmp_path: Path, change: Any, parts: tuple[str, ...] | None) -> None:
    other = copied(folder, tmp_path / "m")
    _config(other, change)
    found = describe_folder(other).fingerprint.differing(describe_folder(folder).fingerprint, tuple(PARTS))
    assert found == parts if parts is not None else "vision_weights" in found


def test_a_folder_without_tokenizer_or_processor(folder: Path, tmp_path: Path) -> None:
    other = copied(folder, tmp_path / "m")
    for path in other.iterdir():
        if path.name.startswith(("tokenizer", "chat_template", "preprocessor")):
            path.unlink()
    found = describe_folder(other)
    assert (found.fingerprint.tokenizer, found.fingerprint.chat_template, found.fingerprint.processor) == (None,) * 3
    assert set(found.notes) == {"tokenizer", "chat_template", "processor"}
    (other / "tokenizer.json").write_text("{")
    assert describe_folder(other).notes["tokenizer"]


def test_what_is_no_model_folder(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(NotFound):
            describe_folder(place)
    for text in ("{", "[]", '{"model_type": "nothing-of-this-name"}', '{"model_type": 3}'):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(InvalidFile):
            describe_folder(tmp_path)


# Reading once.


class Reads:
    """The bytes that this process has read so far, by the system's count."""

    def __init__(self) -> None:
        self._before = self._now()

    @staticmethod
    def _now() -> int:
        return int(Path("/proc/self/io").read_text().split()[1])

    def bytes(self) -> int:
        return self._now() - self._before


LATER = 10**20  # a time at which every file has been left alone for long


def test_a_shard_is_read_once(folder: Path) -> None:
    memory, paths = InProcess(), shard_paths(str(folder))
    size = sum(path.stat().st_size for path in shards(folder))
    told: list[tuple[int, int]] = []
    reads = Reads()
    first = shard_lines(paths, memory, lambda done, total: told.append((done, total)), clock=lambda: LATER)
    assert size <= reads.bytes() < 1.2 * size
    assert told[-1] == (size, size)
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    told.clear()
    reads = Reads()
    assert shard_lines(paths, memory, lambda done, total: told.append((done, total)), clock=lambda: LATER) == first
    assert reads.bytes() < 20_000
    assert told == [(0, 0)]


def test_a_changed_shard_is_read_again(folder: Path, tmp_path: Path) -> None:
    import os

    other = copied(folder, tmp_path / "m")
    memory, paths = InProcess(), shard_paths(str(other))
    first = shard_lines(paths, memory, clock=lambda: LATER)
    shard = shards(other)[0]
    before = shard.stat()
    flip(shard)
    os.utime(shard, ns=(before.st_atime_ns, before.st_mtime_ns))  # the same size and mtime: the ctime is another
    second = shard_lines(paths, memory, clock=lambda: LATER)
    assert sum(second[name] != line for name, line in first.items()) == 1


def test_a_file_that_may_still_change_is_not_remembered(folder: Path, tmp_path: Path) -> None:
    other = copied(folder, tmp_path / "m")
    memory, paths = InProcess(), shard_paths(str(other))
    newest = max(path.stat().st_ctime_ns for path in shards(other))
    shard_lines(paths, memory, clock=lambda: newest + 1)
    told: list[tuple[int, int]] = []
    shard_lines(paths, memory, lambda done, total: told.append((done, total)), clock=lambda: newest + 1)
    assert told[-1][1] == sum(path.stat().st_size for path in shards(other))


def test_a_memory_that_says_nonsense(folder: Path) -> None:
    class Nonsense(InProcess):
        def get(self, kind: Any, key: str) -> Any:
            return {"w": 3}

    assert shard_lines(shard_paths(str(folder)), Nonsense()) == lines_of(folder)


# Remembered between processes.


def read_again(path: Path, memory: InProcess, change: Callable[[Any], Any] = lambda model: None) -> tuple[Any, int]:
    """Load a folder anew, as another process would, change it, and tell its fingerprint and the bytes it took."""
    loaded, total = load_folder(path), [0]
    change(loaded.model)
    found = fingerprint_of(loaded.model, memory=memory, progress=lambda done, size: total.append(size))
    return found, max(total)


def test_a_model_from_a_folder_is_read_by_one_process_alone(folder: Path) -> None:
    memory = InProcess()
    first, taken = read_again(folder, memory)
    assert taken > 5_000_000
    assert read_again(folder, memory) == (first, 0)


def _row(model: Any) -> None:
    with torch.no_grad():
        model.lm_head.weight.data[101] += 1


def _column(model: Any) -> None:
    model.model.language_model.layers[1].mlp.up_proj.weight.data[:, 7] += 1


def _counted(model: Any) -> None:
    with torch.no_grad():
        model.lm_head.weight[3, 5] += 1  # one element: torch counts the change


@pytest.mark.parametrize("change", [_row, _column, _counted, lambda model: model.to(torch.float16), nn.Module.half])
def test_changed_after_loading(folder: Path, change: Any) -> None:
    memory = InProcess()
    first, _ = read_again(folder, memory)
    found, taken = read_again(folder, memory, change)
    assert taken > 0
    assert found.weights != first.weights


def test_changed_on_disk(folder: Path, tmp_path: Path) -> None:
    other = copied(folder, tmp_path / "m")
    memory = InProcess()
    first, _ = read_again(other, memory)
    flip(shards(other)[0])
    found, taken = read_again(other, memory)
    assert taken > 0
    assert (found.weights, found.vision_weights) != (first.weights, first.vision_weights)


def test_nothing_is_remembered_of_a_folder_that_is_gone(loaded: Loaded, tmp_path: Path) -> None:
    own = small_model()
    for name in ("", str(tmp_path / "nowhere"), str(tmp_path), "no/such:model"):
        own.model.config._name_or_path = name
        assert fingerprint_of(own.model, memory=InProcess()).weights == weights(loaded.model)


def test_a_model_of_the_hub_is_found_in_its_cache(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    place = tmp_path / "models--some--model"
    copied(folder, place / "snapshots" / "abc")
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("abc")
    memory, taken = InProcess(), []
    for _ in range(2):
        own = small_model()
        own.model.config._name_or_path = "some/model"
        total = [0]
        fingerprint_of(own.model, memory=memory, progress=lambda done, size, total=total: total.append(size))
        taken.append(max(total))
    assert taken[0] > 5_000_000
    assert taken[1] == 0
