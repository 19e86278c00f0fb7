"""What is remembered of living tensors, and that forgetting never waits for itself."""

from __future__ import annotations

import threading

import pytest
import torch
from torpor.client.digest_memo import DigestMemo
from torpor.codec.torch_bridge import tensor_leaf
from torpor.state.errors import SnapshotLost
from torpor.state.manifest import BlobRef

REFS = [BlobRef("a" * 64, 40)]


def test_a_tensor_is_known_until_it_changes_or_goes() -> None:
    memo, tensor = DigestMemo(), torch.zeros(10)
    leaf = tensor_leaf(tensor, copy=False, memo=(tensor, tensor._version))
    assert memo.known(leaf) is None
    memo.remember(leaf, REFS)
    assert memo.known(leaf) == REFS
    assert memo.known(tensor_leaf(tensor.clone(), copy=False, memo=(tensor.clone(), 0))) is None
    tensor.add_(1)
    assert memo.known(tensor_leaf(tensor, copy=False, memo=(tensor, tensor._version))) is None
    with pytest.raises(SnapshotLost):
        memo.check(leaf)
    memo.forget(["a" * 64])
    assert memo._entries == {}


def test_a_tensor_that_goes_while_the_lock_is_held_blocks_nobody() -> None:
    """A garbage collection runs wherever it likes, also inside the memo's own methods."""
    memo, tensors = DigestMemo(), [torch.zeros(10)]
    memo.remember(tensor_leaf(tensors[0], copy=False, memo=(tensors[0], tensors[0]._version)), REFS)

    def collect() -> None:
        with memo._lock:
            tensors.clear()

    thread = threading.Thread(target=collect, daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
    assert memo._entries == {}
