"""What a model is, from memory and from its folder: the same digests, and others for everything that differs."""

from __future__ import annotations

import copy
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
from torpor.adapters.model_folder import describe_folder
from torpor.adapters.model_identity import describe_model, fingerprint_of
from torpor.adapters.shards import shard_lines, shard_paths
from torpor.adapters.weight_bytes import pieces
from torpor.cli.demo_model import Loaded, small_model
from torpor.client.remembered import InProcess
from torpor.state.errors import FileDamaged, InvalidFile, NotFound, TorporError, UnknownFormat, UnsupportedState


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


# Quantised and other unusual weights.


def quantized(seed: int = 0) -> Any:
    with pytest.warns(DeprecationWarning, match="torch.ao.quantization"):
        return torch.ao.quantization.quantize_dynamic(
            small_model(seed, torch.float32).model, {nn.Linear}, dtype=torch.qint8
        )


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_packed_weights_are_read() -> None:
    """They are neither parameters nor buffers: what is left of both models are norms and embeddings."""
    plain = small_model(0, torch.float32).model
    one, same, other = quantized(), quantized(), quantized()
    packed = other.model.language_model.layers[2].mlp.down_proj
    weight, bias = packed._weight_bias()
    packed.set_weight_bias(
        torch.quantize_per_tensor(weight.dequantize() * 1.01, weight.q_scale(), 0, torch.qint8), bias
    )
    found = [describe_model(model).fingerprint for model in (plain, one, same, other)]
    assert found[1] == found[2]
    assert len({f.weights for f in found}) == 3
    assert None not in {f.weights for f in found}
    assert found[0].quantization == "none" != found[1].quantization
    assert found[0].text_config == found[1].text_config


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_packed_weights_that_are_replaced_are_noticed() -> None:
    model = quantized()
    before = weights(model)
    packed = model.model.language_model.layers[0].mlp.up_proj
    weight, bias = packed._weight_bias()
    changed = torch.quantize_per_tensor(weight.dequantize(), weight.q_scale() * 2, 0, torch.qint8)
    packed.set_weight_bias(changed, bias)
    assert weights(model) != before
    packed.set_weight_bias(weight, bias)
    assert weights(model) == before


class Extra(nn.Linear):
    """A layer with state that is no tensor."""

    told: Any = 1

    def get_extra_state(self) -> Any:
        return {"told": self.told}


def with_layer(layer: nn.Module) -> Any:
    model = small_model(num_hidden_layers=1).model
    model.model.language_model.layers[0].more = layer
    return model


def zeroed(layer: nn.Module) -> Any:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def test_extra_state_counts() -> None:
    model = with_layer(zeroed(Extra(3, 3)))
    before = weights(model)
    assert before == weights(with_layer(zeroed(Extra(3, 3))))
    model.model.language_model.layers[0].more.told = 2
    assert weights(model) not in (before, None)
    model.model.language_model.layers[0].more.told = object()
    found = describe_model(model)
    assert found.fingerprint.weights is None
    assert "cannot be told" in found.notes["weights"]


class Bare(nn.Module):
    """A layer that keeps its tensor as a plain attribute."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.kept = torch.full((4, 4), value)


def test_a_tensor_that_is_a_plain_attribute_counts() -> None:
    one, other = with_layer(Bare(1)), with_layer(Bare(2))
    assert len({weights(one), weights(other), weights(small_model(num_hidden_layers=1).model)}) == 3
    before = weights(one)
    one.model.language_model.layers[0].more.kept.mul_(3)
    assert weights(one) != before


class Wrapped(torch.Tensor):
    """A tensor subclass that is two others, as quantisers make them."""

    inner: torch.Tensor
    scale: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor, scale: torch.Tensor, block: int) -> Wrapped:
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=torch.bfloat16)  # type: ignore[attr-defined,no-any-return]

    def __init__(self, inner: torch.Tensor, scale: torch.Tensor, block: int) -> None:
        self.inner, self.scale, self.block = inner, scale, block

    def __tensor_flatten__(self) -> tuple[list[str], Any]:
        return ["inner", "scale"], {"block": self.block}

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.detach.default:
            return cls(args[0].inner, args[0].scale, args[0].block)
        raise NotImplementedError(func)


def wrapped(value: int = 1, scale: float = 1.0, block: int = 32) -> Any:
    model = small_model(num_hidden_layers=1).model
    tensor = Wrapped(torch.full((4, 4), value, dtype=torch.int8), torch.full((4,), scale), block)
    model.model.language_model.layers[0].register_parameter("odd", nn.Parameter(tensor, requires_grad=False))
    return model


def test_tensor_subclasses_are_told_by_what_they_hold() -> None:
    found = [weights(wrapped()), weights(wrapped(2)), weights(wrapped(scale=2.0)), weights(wrapped(block=64))]
    assert None not in found
    assert len(set(found)) == 4
    assert found[0] == weights(wrapped())
    assert fingerprint_of(wrapped()).quantization != "none"
    model = wrapped()
    before = weights(model)
    model.model.language_model.layers[0].odd.scale.data.mul_(2)
    assert weights(model) not in (before, None)


@pytest.mark.parametrize(
    "value",
    [
        torch.eye(3).to_sparse(),
        {"x": object()},
        [torch.zeros(2), Path],
    ],
    ids=["sparse", "object", "class"],
)
def test_what_cannot_be_told(value: Any) -> None:
    with pytest.raises(UnsupportedState):
        list(pieces("w", value))


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch warns once a process, in whichever test comes first
def test_quantised_tensors_are_told_by_scale_and_integers() -> None:
    def told(value: torch.Tensor) -> list[str]:
        return [f"{name}={item!r}" for name, item in pieces("w", value)]

    base = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    tensors = [
        torch.quantize_per_tensor(base, 0.5, 0, torch.qint8),
        torch.quantize_per_tensor(base * 2, 1.0, 0, torch.qint8),  # the same integers
        torch.quantize_per_tensor(base, 0.5, 1, torch.qint8),
        torch.quantize_per_channel(base, torch.tensor([0.5, 0.5]), torch.tensor([0, 0]), 0, torch.qint8),
        torch.quantize_per_channel(base, torch.tensor([0.5, 0.5]), torch.tensor([0, 0]), 1, torch.qint8),
    ]
    assert len({tuple(told(t)) for t in tensors}) == len(tensors)


def test_offloaded_weights_are_unknown() -> None:
    model = small_model().model
    model.lm_head.to("meta")
    found = describe_model(model)
    assert found.fingerprint.weights is None
    assert "offloaded" in found.notes["weights"]


def test_a_quantization_config_counts_as_dict_or_object() -> None:
    from transformers import BitNetQuantConfig

    found = set()
    for config in (BitNetQuantConfig(), BitNetQuantConfig().to_dict(), None, BitNetQuantConfig(use_rms_norm=True)):
        model = small_model().model
        if config is not None:
            model.config.quantization_config = copy.deepcopy(config)
        found.add(describe_model(model).fingerprint.quantization)
    assert len(found) == 3


def test_a_compiled_model_is_the_model(loaded: Loaded) -> None:
    compiled: Any = torch.compile(loaded.model, backend="eager")
    assert fingerprint_of(compiled) == fingerprint_of(loaded.model)
