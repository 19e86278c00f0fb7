"""Fuzz one target: `python tests/fuzz/run.py TARGET [SECONDS] [libFuzzer flags]`; see `make fuzz`.

What it finds lies under build/fuzz/TARGET: the corpus that grew, and an artifact for each failure. A failure that is
mended becomes a file of tests/fuzz/corpus, where every test run repeats it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

TESTS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS))

import torch  # noqa: E402, F401  (before the instrumentation, which is for our code alone)

with atheris.instrument_imports(include=["torpor.codec", "torpor.state"]):
    from fuzz.targets import DOCUMENTS, TARGETS, only_known_errors
from fuzz.mutate import KEYS, mutate_json  # noqa: E402

# The readers hold a few MiB; the rest is torch and the interpreter.
FLAGS = ["-rss_limit_mb=768", "-timeout=10", "-max_len=16384", "-len_control=20"]


def main() -> None:
    name, seconds, *flags = [*sys.argv[1:], "60"] if len(sys.argv) == 2 else sys.argv[1:]
    target, grown = TARGETS[name], TESTS.parent / "build" / "fuzz" / name
    grown.mkdir(parents=True, exist_ok=True)
    words = grown.parent / "words.dict"
    words.write_text("".join(f'"{_escaped(word)}"\n' for word in KEYS if word))
    options = [f"-max_total_time={seconds}", f"-artifact_prefix={grown.parent}/{name}-", f"-dict={words}"]
    folders = [str(grown), str(TESTS / "fuzz" / "corpus" / name)]
    mutator = {"custom_mutator": _mutator} if name in DOCUMENTS else {}
    atheris.Setup(
        [sys.argv[0], *FLAGS, *options, *flags, *folders], lambda data: only_known_errors(target, data), **mutator
    )
    atheris.Fuzz()


def _mutator(data: bytes, most: int, seed: int) -> bytes:
    return mutate_json(data, seed, lambda raw: atheris.Mutate(raw, most))[:most]


def _escaped(word: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word.encode())


if __name__ == "__main__":
    main()
