"""A progress bar on stderr, where somebody looks at it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from ..client.transfer import Progress as Told
from . import output


@contextmanager
def bar(words: str, as_json: bool) -> Iterator[Told]:
    """Show how many bytes are done and how many there are in all."""
    if as_json or not output.errors.is_terminal:
        yield lambda done_bytes, total_bytes: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=output.errors, transient=True) as shown:
        task = shown.add_task(words)
        yield lambda done_bytes, total_bytes: shown.update(task, completed=done_bytes, total=total_bytes)
