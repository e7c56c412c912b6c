"""Where files lie and how work is spread, as read (only here) from the environment; and the writing of whole files."""

import os
import re
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import uuid4

from pydantic import AfterValidator, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from kdutils.errors import InputError
from kdutils.values import explain

ROOT = Path(__file__).parents[1]
"""The project's folder."""


def absolute(path: str | Path) -> Path:
    """`path` as an absolute path, with `~` expanded to a home folder; raises `InputError` if there is no such home."""
    try:
        return Path(path).expanduser().absolute()
    except RuntimeError:
        raise InputError(f"{path}: there is no such home folder, write the whole path") from None


def _address(given: str) -> str:
    found = re.fullmatch(r"(tcp|tls)://([\w.-]+|\[[\da-fA-F:.]+\]):(\d{1,5})", given)
    if not found or not 0 < int(found[3]) < 2**16:
        raise ValueError("a scheduler's address is needed, such as tcp://host:8786 (`dask scheduler` prints its own)")
    return given


Place = Annotated[Path, AfterValidator(absolute)]


class Settings(BaseSettings):
    """The settings, read from the environment variables `KD_*`; an empty variable counts as not set."""

    model_config = SettingsConfigDict(env_prefix="KD_", env_ignore_empty=True, frozen=True)

    data_dir: Place = ROOT / "data"  # data sets and pretrained weights
    runs_dir: Place = ROOT / "runs"  # finished runs and teacher tables
    workers: Annotated[int, Field(gt=0)] | None = None  # None: one for each core, or one where there is a GPU
    scheduler: Annotated[str, AfterValidator(_address)] | None = None  # the address of a Dask cluster for the runs
    tls_ca_file: Place | None = None  # for a tls:// scheduler: the files for Dask's options of these names
    tls_cert: Place | None = None
    tls_key: Place | None = None
    dashboard: bool = False  # whether Dask serves its dashboard of this machine's workers
    progress: Literal["bar", "lines"] | None = None  # None: a bar in a terminal or notebook, else a line a minute
    checkpoint_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 60.0
    report_dir: Place | None = None  # set by the suite for a chapter: the folder of its report
    chapter: str = ""  # set by the suite: the chapter's name
    used_runs: Place | None = None  # set by the suite: the file for the keys of the runs that the chapter uses


def settings(**given: Any) -> Settings:
    """The settings as `given`, else as the environment has them now; raises `InputError` for a wrong value."""
    try:
        return Settings(**given)
    except ValidationError as error:
        name, _, reason = explain(error).partition(":")
        raise InputError(f"KD_{name.upper()}:{reason}") from None


def pin_settings(**given: Any) -> None:
    """Check the settings and write them, folders absolute, to the environment: kernels and workers run elsewhere."""
    for name, value in settings(**given).model_dump(exclude_unset=True).items():
        os.environ[f"KD_{name.upper()}"] = str(value)
    if os.environ.get("TMPDIR"):
        os.environ["TMPDIR"] = tempfile.gettempdir()


def write_atomic(path: Path, content: bytes) -> Path:
    """Write `content` to `path`, in folders made as needed; a reader finds the old file or the new one, never a part.

    Raises `InputError`, which names the folder if it cannot be written (for example because the disk is full), or
    `path` if that is a folder or a device.
    """
    draft, failure = path.with_name(f".{uuid4().hex}.draft"), None
    for _ in range(3):  # another process that has finished the same run may just be removing its folder
        try:
            if path.exists() and not path.is_file():
                raise InputError(f"{path} is there and is no file: give the name of a file")
            path.parent.mkdir(parents=True, exist_ok=True)
            draft.write_bytes(content)
            os.replace(draft, path)
            return path
        except OSError as error:
            failure = error
            with suppress(OSError):
                draft.unlink()
    reason = failure.strerror or failure
    raise InputError(f"{path.parent} cannot be written ({reason}): free space or choose another folder")
