"""Where things lie and how work is spread: the only place that reads the environment, and whole files."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal
from uuid import uuid4

from pydantic import AfterValidator, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from kdutils.errors import InputError
from kdutils.values import explain

ROOT = Path(__file__).parents[1]
"""The project's folder."""

Folder = Annotated[Path, AfterValidator(lambda path: path.expanduser().absolute())]


class Settings(BaseSettings):
    """The variables `KD_*` of the environment; empty means not set."""

    model_config = SettingsConfigDict(env_prefix="KD_", env_ignore_empty=True, frozen=True)

    data_dir: Folder = ROOT / "data"  # data sets and pretrained weights
    runs_dir: Folder = ROOT / "runs"  # finished runs and teacher tables
    workers: Annotated[int, Field(gt=0)] | None = None  # None: one for each core, or one where there is a GPU
    scheduler: Annotated[str, Field(pattern=r"^(tcp|tls)://([\w.-]+|\[[\da-fA-F:.]+\]):\d{1,5}$")] | None = None
    tls_ca_file: Folder | None = None  # for a tls:// scheduler: files as Dask's own options of these names take
    tls_cert: Folder | None = None
    tls_key: Folder | None = None
    dashboard: bool = False  # Dask's own, of the workers of this machine
    progress: Literal["bar", "lines"] | None = None  # None: a bar where somebody looks, else a line a minute
    checkpoint_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 60.0
    report_dir: Folder | None = None  # the suite's, for the kernel of a chapter: its report's folder,
    chapter: str = ""  # the chapter's name,
    used_runs: Folder | None = None  # and a file for the keys of the runs that it rests on


def settings() -> Settings:
    """The settings as the environment has them now; raises `InputError` for a value that cannot be."""
    try:
        return Settings()
    except ValidationError as error:
        raise InputError(f"KD_{explain(error)[0].upper()}{explain(error)[1:]}") from None


def pin_settings() -> None:
    """Make relative folders absolute in the environment, for kernels and workers, which run in other folders."""
    found = settings()
    for name in ("data_dir", "runs_dir", "tls_ca_file", "tls_cert", "tls_key"):
        if os.environ.get(f"KD_{name.upper()}"):
            os.environ[f"KD_{name.upper()}"] = str(getattr(found, name))


def write_atomic(path: Path, content: bytes) -> Path:
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
        reason = error.strerror or error
        raise InputError(f"{path.parent} cannot be written ({reason}): free space or choose another folder") from None
    return path
