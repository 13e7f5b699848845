"""The chats that a job's grader has with models of the server, as two files in the job directory."""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ftpipe.atomic_files import read_json, write_json
from ftpipe.grading.score_model import ModelReply
from ftpipe.training.job_directory import JobDirectory

POLL_SECONDS = 0.02
MAX_ORPHANED_SECONDS = 600.0
"""How long a trainer whose server has ended waits for replies: the next server may start at any moment."""


@dataclass(frozen=True)
class GraderChats:
    """Bodies of chats that wait for their replies."""

    id: str
    bodies: list[dict[str, Any]]


class GraderChatsFile:
    """Reads and writes the chats of a job, on both sides.

    Args:
        directory: The job directory.
    """

    def __init__(self, directory: JobDirectory) -> None:
        self._folder = directory.grader_dir
        self._chats = self._folder / "chats.json"
        self._replies = self._folder / "replies.json"

    def write_chats(self, chats: GraderChats) -> None:
        """Write what the server is to answer."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        write_json(self._chats, asdict(chats), mode=0o600)

    def read_chats(self) -> GraderChats | None:
        """What is to be answered; ``None`` if there is nothing."""
        data = read_json(self._chats)
        return None if data is None else GraderChats(str(data["id"]), list(data["bodies"]))

    def write_replies(self, chats_id: str, replies: Sequence[ModelReply]) -> None:
        """Write the replies to chats, unless the trainer does not wait for them any more."""
        if self._folder.is_dir():
            write_json(self._replies, {"id": chats_id, "replies": [asdict(reply) for reply in replies]}, mode=0o600)

    def read_replies(self, chats_id: str) -> list[ModelReply] | None:
        """The replies to chats; ``None`` if they are not there."""
        data = read_json(self._replies)
        return None if data is None or data["id"] != chats_id else [ModelReply(**one) for one in data["replies"]]

    def has_replies(self, chats_id: str) -> bool:
        """Whether chats have been answered."""
        return self.read_replies(chats_id) is not None

    def remove(self) -> None:
        """Remove chats and replies."""
        shutil.rmtree(self._folder, ignore_errors=True)


class ServerModels:
    """Asks the models of the server that started this trainer.

    Args:
        directory: The job directory.
    """

    def __init__(self, directory: JobDirectory) -> None:
        self._file = GraderChatsFile(directory)
        self._server_pid = os.getppid()

    def ask(self, bodies: Sequence[Mapping[str, Any]], check_cancelled: Callable[[], None]) -> list[ModelReply]:
        """The replies to chats, in their order.

        Raises:
            SystemExit: The server has ended long ago; the next one starts the trainer again.
        """
        if not bodies:
            return []
        chats = GraderChats(uuid.uuid4().hex, [dict(body) for body in bodies])
        self._file.write_chats(chats)
        orphaned_at: float | None = None
        try:
            while (replies := self._file.read_replies(chats.id)) is None:
                check_cancelled()
                if os.getppid() != self._server_pid:
                    orphaned_at = orphaned_at or time.monotonic()
                    if time.monotonic() - orphaned_at > MAX_ORPHANED_SECONDS:
                        raise SystemExit(1)
                time.sleep(POLL_SECONDS)
        finally:
            self._file.remove()
        return replies
