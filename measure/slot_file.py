"""The file of a long slot of llama.cpp's server, laid out after a short one that the server wrote itself.

The prefill of 8,192 tokens at the geometry of workload.py is minutes of two cores, that of 32,768 an hour, whatever the
size of the rest of the network. Nothing here asks what the numbers are, so the rows of the short slot come again and
again. No version of the format is known here: what is not found in the short file is refused, and then a prefill it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy

TENSOR_HEAD_BYTES = 12  # its type, and the bytes of a row
_MORE_WORDS = 16  # of what is counted together with the ids


def widened(short: bytes, held: Sequence[int], ids: Sequence[int], tensors: int, row_bytes: int) -> Iterator[bytes]:
    """Yield the file of a slot of `ids`, of which `short` has the first ones, `held`.

    Shapes: head, then `tensors` times `[token, row_bytes]`, each behind a head of its own. Raises: ValueError for a
    short file that is laid out otherwise.
    """
    tensor_bytes = TENSOR_HEAD_BYTES + len(held) * row_bytes
    body_at = len(short) - tensors * tensor_bytes
    before, rest = short[: max(body_at, 0)].split(_words(held))
    between, behind = rest.split(_cells(len(held)))
    counted = [_recounted(each, len(held), len(ids)) for each in (before, between)]
    yield b"".join((counted[0], _words(ids), counted[1], _cells(len(ids)), behind))
    times, left = divmod(len(ids), len(held))
    for at in range(body_at, len(short), tensor_bytes):
        head, rows = short[at : at + TENSOR_HEAD_BYTES], short[at + TENSOR_HEAD_BYTES : at + tensor_bytes]
        if int.from_bytes(head[4:], "little") != row_bytes:
            raise ValueError(f"a tensor has no rows of {row_bytes} bytes")
        yield head
        yield rows * times + rows[: left * row_bytes]


def _words(numbers: Sequence[int]) -> bytes:
    return numpy.array(numbers, dtype="<i4").tobytes()


def _cells(tokens: int) -> bytes:
    """Return what is said of each token: where it stands, in how many sequences it is, and in which."""
    cells = numpy.zeros((tokens, 3), dtype="<i4")
    cells[:, 0], cells[:, 1] = numpy.arange(tokens), 1
    return cells.tobytes()


def _recounted(head: bytes, held: int, tokens: int) -> bytes:
    words = numpy.frombuffer(head, dtype="<i4").copy()
    words[(words >= held) & (words < held + _MORE_WORDS)] += tokens - held
    return words.tobytes()
