"""Answer what the graders of running jobs ask models: trainers have no key, and write their chats to the job directory.

A trainer waits until the replies to its chats are there. So a server that was killed meanwhile answers them after its
next start, and nothing is answered twice.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection
from dataclasses import dataclass

from ftpipe.errors import FtpipeError
from ftpipe.grading.graders import TYPES_OF_JOBS, models_of, parse_grader
from ftpipe.grading.score_model import ModelReply
from ftpipe.server.cancellation import ActiveRequests, CancelToken, RequestCancelledError
from ftpipe.server.grader_models import GraderModels
from ftpipe.server.storage import JobRow
from ftpipe.training.grader_chats import GraderChats, GraderChatsFile
from ftpipe.training.job_directory import JobDirectory

log = logging.getLogger("ftpipe.server.jobs")

WRITE_PAUSE_SECONDS = 1.0
"""How long to wait before replies are written again, for example because the disk is full."""


@dataclass(slots=True)
class _Answering:
    """Chats of a job that a thread answers."""

    chats_id: str
    token: CancelToken
    thread: threading.Thread


class GraderRequests:
    """Answers the chats of jobs, in a thread for each job.

    Args:
        models: Answers them.
        active: Cancels them when the server stops.
    """

    def __init__(self, models: GraderModels, active: ActiveRequests) -> None:
        self._models = models
        self._active = active
        self._answering: dict[str, _Answering] = {}

    def poll(self, job: JobRow, directory: JobDirectory) -> None:
        """Begin to answer the chats of a running job, if there are new ones; returns at once."""
        if job.grader is None:
            return
        file = GraderChatsFile(directory)
        chats = file.read_chats()
        answering = self._answering.get(job.id)
        if chats is None or (answering is not None and answering.chats_id == chats.id) or file.has_replies(chats.id):
            return
        if answering is not None:  # the trainer has started again
            answering.token.cancel()
        token = self._active.new_token()
        thread = threading.Thread(target=self._answer, args=(job, file, chats, token), name="grader", daemon=True)
        self._answering[job.id] = _Answering(chats.id, token, thread)
        thread.start()

    def stop_unless(self, running_job_ids: Collection[str]) -> None:
        """Cancel the chats of jobs that do not run any more."""
        for job_id in [one for one in self._answering if one not in running_job_ids]:
            self._answering.pop(job_id).token.cancel()

    def close(self) -> None:
        """Cancel all chats, and wait for the threads."""
        threads = [one.thread for one in self._answering.values()]
        self.stop_unless(())
        for thread in threads:
            thread.join()

    def _answer(self, job: JobRow, file: GraderChatsFile, chats: GraderChats, token: CancelToken) -> None:
        try:
            with self._active.working_thread():
                allowed = models_of(parse_grader(job.grader or {}, types=TYPES_OF_JOBS))
                if all(body.get("model") in allowed for body in chats.bodies):
                    replies = self._models.ask(job.owner, chats.bodies, token)
                else:
                    replies = [ModelReply(error="the job's grader does not name this model")] * len(chats.bodies)
        except RequestCancelledError:
            log.debug("the chats of the grader of job %s were cancelled", job.id)
            return
        except Exception:  # the trainer must not wait for ever
            log.exception("the chats of the grader of job %s could not be answered", job.id)
            replies = [ModelReply(error="the server had an error")] * len(chats.bodies)
        while not token.is_cancelled:
            try:
                file.write_replies(chats.id, replies)
            except (FtpipeError, OSError) as exc:
                log.error("the replies to the grader of job %s cannot be written, trying again: %s", job.id, exc)
                time.sleep(WRITE_PAUSE_SECONDS)
            else:
                return
