"""The codecs of the bench, on the cache of a real small model."""

from __future__ import annotations

import pytest
import torch
from torpor.adapters.demo_model import small_model
from torpor.measure import codec_figures
from torpor.measure.codec_figures import TORPOR, ZIPNN, Codec, contenders, real_blocks


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")  # of zipnn, where it is installed
@pytest.mark.parametrize(("dtype", "kind"), [("bf16", torch.bfloat16), ("f16", torch.float16)])
def test_every_codec_gives_back_what_it_got(dtype: str, kind: torch.dtype) -> None:
    blocks = real_blocks(small_model(), kind, 150)
    assert [len(block) for block in blocks] == [4 * 2 * 2 * 64 * 64 * 2] * 2  # full blocks alone
    found = contenders(dtype)
    assert {TORPOR, "zstd-1 as it is", "LZ4 as it is"} <= found.keys()
    for codec in found.values():
        packed = [codec.pack(bytes(bytearray(block))) for block in blocks]  # ZipNN changes what it is given
        assert [codec.unpack(piece) for piece in packed] == blocks


def test_ours_is_compared_with_each() -> None:
    blocks, all_of_them = real_blocks(small_model(), torch.bfloat16, 70), contenders("bf16")
    codecs = {name: all_of_them[name] for name in (TORPOR, "zstd-1 as it is")}
    ratio, into, out = codec_figures.codec_figures("bf16", blocks, {**codecs, ZIPNN: codecs[TORPOR]}, 1)[1::2]
    assert ratio.ours == ratio.baseline
    assert ratio.ours[0] > 1
    assert [figure.at_least_ratio for figure in (ratio, into, out)] == [1.0] * 3


def test_a_codec_that_loses_something_is_noticed() -> None:
    codecs = {TORPOR: Codec(lambda raw: raw, lambda packed: packed[:-1])}
    with pytest.raises(RuntimeError, match="does not give back"):
        codec_figures.codec_figures("bf16", [b"block"], codecs, 1)


def test_what_is_not_installed_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec_figures, "_OTHERS", {"other": ("no_such_codec", lambda dtype: Codec(bytes, bytes))})
    assert list(contenders("bf16")) == [TORPOR]
    alone = codec_figures.codec_figures("bf16", [bytes(range(256)) * 8], contenders("bf16"), 1)
    assert [figure.against for figure in alone] == ["", "", ""]
