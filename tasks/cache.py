"""The folder that keeps downloads and trained weights between runs, and files written to it whole or not at all."""

import os
import secrets
from collections.abc import Callable
from pathlib import Path


def cache_dir() -> Path:
    """Return $XDG_CACHE_HOME/gulliver, or ~/.cache/gulliver where that is not set; it may not exist yet."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "gulliver"


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside the path, then rename it; raises what `write` raises, or OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # The same folder, because a rename is atomic only within one file system.
    temporary = path.parent / f".{path.name}.{secrets.token_hex(8)}"
    # Not by mkstemp, whose files no other user may read, whatever the umask.
    temporary.touch(exist_ok=False)
    try:
        write(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
