"""Files that are whole or absent."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from kdutils.specs import InputError


def write_whole(path: Path, content: bytes) -> Path:
    """Write `content` to `path`, its folders made: a reader finds the old file or the new one, never half of one.

    Raises `InputError` that names the folder where it cannot be written, a full disk included.
    """
    draft = path.with_name(f".{path.name}.{uuid4().hex}.draft")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_bytes(content)
        os.replace(draft, path)
    except OSError as error:
        with suppress(OSError):
            draft.unlink()
        raise InputError(f"{path.parent} cannot be written ({error.strerror or error}): free space there or choose another folder") from None
    return path
