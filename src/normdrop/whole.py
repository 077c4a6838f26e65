"""Files that are there whole or not at all, after a power cut too."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Where to write the file, which takes its place at the end of the block."""
    part = path.with_name(f"{path.name}.part")
    try:
        yield part
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    with part.open("rb+") as file:
        os.fsync(file.fileno())
    part.replace(path)
