"""The output folder: what is finished, what is on its way, and how each becomes the other.

::

    OUTPUT/
      city/clip.mp4/            the results of one video: there whole, or not at all
        item.json  overlay.mp4  masks/000000.png …  frames.parquet
      .segdeploy/
        batch.json              the settings; another batch is refused
        plans/ITEM.json         where a video is cut
        chunks/ITEM/0002-of-0005/   a finished chunk: made aside, renamed

Every step ends with one rename, so that whatever is killed at any point leaves a folder from which
the next call goes on: a chunk that is there is finished, and so is a result.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from segformer_deploy import files
from segformer_deploy.batch.chunk import read_chunk
from segformer_deploy.batch.items import Item
from segformer_deploy.batch.plan import Plan
from segformer_deploy.errors import InputError, OutputError, SpecError

STATE = ".segdeploy"
RECORD = "item.json"
_FORMAT = 1
# Of a path, for what is written in a result's folder while its name is a temporary one.
_ROOM = 80


class BatchFolder:
    """A batch's output folder.

    Args:
        output: the folder.
        token: what tells this batch from one that was made later in the same place; None: it is
            read from the folder.

    Attributes:
        settings: what the results of this batch are marked with; set by `opened`.
    """

    def __init__(self, output: Path, token: str | None = None) -> None:
        self.output = output.absolute()
        self.state = self.output / STATE
        self._chunks, self._plans = self.state / "chunks", self.state / "plans"
        self._batch = self.state / "batch.json"
        self.token = token or ""
        self.settings = ""

    @contextmanager
    def opened(self, identity: dict[str, Any], *, restart: bool = False) -> Iterator[None]:
        """Hold the folder for the batch of these settings, and clear what a killed one left.

        Args:
            identity: of the settings and the source.
            restart: drop what other settings began, and make all results again.

        Raises:
            InputError: it holds a batch of other settings.
            OutputError: another process has it, or it cannot be written.
        """
        with ExitStack() as held:
            with files.writing(self.output):
                self.state.mkdir(parents=True, exist_ok=True)
                held.enter_context(files.only_writer(self._batch))
                self._take(identity, restart)
                self._clear()
            yield

    def check(self) -> None:
        """OutputError where the folder is not there any more, or is not this batch's."""
        found = self._read(self._batch)
        if found is None or found.get("token") != self.token:
            raise OutputError(
                f"the output folder {self.output} was removed or replaced, or is not seen from "
                "here",
                "the same folder from the beginning to the end, seen by all workers",
                "the same command begins again with what is missing",
            )

    @property
    def gone(self) -> bool:
        """Whether `check` would raise."""
        try:
            self.check()
        except (OutputError, SpecError):
            return True
        return False

    def result(self, item: Item) -> Path:
        """Where the results of an item go."""
        return self.output / item.name

    def record(self, item: Item) -> dict[str, Any] | None:
        """What was written of an item with these settings; None where it is not finished.

        Raises:
            OutputError: something else lies in its place, or its name is too long for this disk.
        """
        place = self.result(item)
        with files.writing(place):
            _check_name(self.output, place)
        if not os.path.lexists(place):
            return None
        try:
            found = self._read(place / RECORD)
        except (OSError, SpecError):
            found = None
        if found is None or "settings" not in found:
            raise OutputError(
                f"{place} is there already, and was not made by a batch",
                "a name that is free",
                "move it away, or choose another --output",
            )
        return found if found["settings"] == self.settings else None

    def plan(self, item: Item) -> Plan | None:
        """The plan that was made of an item before; a damaged one is none."""
        try:
            found = self._read(self._plan_path(item))
            return None if found is None else Plan.from_dict(found)
        except SpecError:
            return None

    def keep_plan(self, item: Item, plan: Plan) -> None:
        """Keep a plan; chunks of another one go."""
        before = self.plan(item)
        if before != plan:
            self._drop_chunks(item)
            self.check()
            files.write_text(self._plan_path(item), json.dumps(plan.to_dict()))

    def chunk(self, item_key: str, number: int, chunks: int) -> Path:
        """Where a finished chunk lies."""
        return self._chunks / item_key / f"{number:04d}-of-{chunks:04d}"

    def finished(self, place: Path) -> bool:
        """Whether a chunk is there as it was written; a damaged one is removed."""
        if not place.is_dir():
            return False
        try:
            read_chunk(place)
        except OutputError:
            shutil.rmtree(place, ignore_errors=True)
            return False
        return True

    def chunks(self, item: Item, plan: Plan) -> list[Path]:
        """All chunks of an item, in order, whether they are there or not."""
        return [self.chunk(item.key, number, plan.chunks) for number in range(plan.chunks)]

    @contextmanager
    def new_chunk(self, place: Path) -> Iterator[Path]:
        """A folder to fill, which becomes `place` at the end, unless another did so first.

        Raises:
            OutputError: it cannot be written.
        """
        self.check()
        with files.writing(place):
            # Not its parents: an output folder that was removed must not come back half.
            place.parent.mkdir(exist_ok=True)
            aside = place.with_name(f".{place.name}.{secrets.token_hex(4)}.partial")
            aside.mkdir()
            try:
                yield aside
                files.sync_folder(aside)
                self.check()
                try:
                    aside.rename(place)
                except OSError as error:
                    # Somebody else has made the same chunk: one is as good as the other.
                    if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                        raise
            finally:
                shutil.rmtree(aside, ignore_errors=True)

    def drop(self, item: Item) -> None:
        """Remove the plan and the chunks of an item, to begin it anew."""
        self._drop_chunks(item)
        with files.writing(self._plan_path(item)):
            self._plan_path(item).unlink(missing_ok=True)

    def forget(self, item: Item) -> None:
        """Remove the plan, the chunks and all leftovers of an item whose results are there."""
        if self._plan_path(item).exists():  # goes last: as long as it is there, something may be
            files.clear_leftovers(self.result(item))
            self.drop(item)

    def _drop_chunks(self, item: Item) -> None:
        shutil.rmtree(self._chunks / item.key, ignore_errors=True)

    def _plan_path(self, item: Item) -> Path:
        return self._plans / f"{item.key}.json"

    def _take(self, identity: dict[str, Any], restart: bool) -> None:
        try:
            found = self._read(self._batch)
        except SpecError:
            if not restart:
                raise
            found = None
        if restart:
            found = None
        elif found is not None and (found.get("format"), found.get("identity")) != (
            _FORMAT,
            identity,
        ):
            raise _other_settings(self.output, found.get("identity"), identity)
        elif found is not None and not {"token", "restarted"} <= found.keys():
            raise _unreadable(self._batch, "something is missing in it")
        if found is None:
            for old in (self._chunks, self._plans):
                shutil.rmtree(old, ignore_errors=True)
            # A name of its own marks what was made before a restart as not of this batch.
            found = {"format": _FORMAT, "token": secrets.token_hex(8), "identity": identity}
            found["restarted"] = secrets.token_hex(8) if restart else ""
            files.write_text(self._batch, json.dumps(found, indent=1))
        self._chunks.mkdir(exist_ok=True)
        self._plans.mkdir(exist_ok=True)
        self.token = str(found["token"])
        told = json.dumps([identity, found["restarted"]], sort_keys=True)
        self.settings = hashlib.sha256(told.encode()).hexdigest()[:16]

    def _clear(self) -> None:
        """Remove what a killed process had not finished."""
        for left in self._chunks.glob("*/.*.partial"):
            shutil.rmtree(left, ignore_errors=True)

    def _read(self, path: Path) -> dict[str, Any] | None:
        """A JSON object, or None where there is no such file."""
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except ValueError as error:
            raise _unreadable(path, str(error)) from error
        if not isinstance(data, dict):
            raise _unreadable(path, "it is no object")
        return data


def _check_name(output: Path, place: Path) -> None:
    """OSError where the disk takes no such name: else that is found when all is segmented."""
    longest = max(len(os.fsencode(name)) for name in place.relative_to(output).parts)
    whole = len(os.fsencode(place)) + _ROOM
    limits = os.pathconf(output, "PC_NAME_MAX"), os.pathconf(output, "PC_PATH_MAX")
    if any(0 < most < long for most, long in zip(limits, (longest, whole), strict=True)):
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))


def _unreadable(path: Path, why: str) -> SpecError:
    return SpecError(
        f"{path} does not read: {why}", "a file that a batch wrote", "--restart begins anew"
    )


def _other_settings(output: Path, old: Any, new: dict[str, Any]) -> InputError:
    old = old if isinstance(old, dict) else {}
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    told = ", ".join(f"{name} ({old.get(name)}, now {new.get(name)})" for name in names)
    return InputError(
        f"{output} holds a batch of other settings: {told or 'of another version'}",
        "the same settings, which go on with it",
        "choose another --output, or --restart to make all results again",
    )
