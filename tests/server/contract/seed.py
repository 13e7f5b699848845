"""A pytest plugin that puts the things which openai-python's tests name into a running server's data folder.

Those tests ask for fixed ids (``file-abc123``, ``ft-AF1WoRqd3aJAHsqc9NY7iL8F``) and delete them again and again, so
the rows are put back before each test. The server is the ordinary one and knows nothing of it.
``python -m tests.server.contract.openai_python CHECKOUT`` runs them.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from sqlalchemy import delete

from ftpipe.server.api.answer_events import AnswerEnd
from ftpipe.server.api.response_chat import response_head
from ftpipe.server.api.response_events import ResponseBuilder
from ftpipe.server.api.response_items import ItemIds
from ftpipe.server.api.response_schemas import CreateResponse, parse_request
from ftpipe.server.storage import (
    CheckpointRow,
    CompletionRow,
    EventRow,
    FileRow,
    JobRow,
    PartRow,
    PermissionRow,
    ResponseRow,
    Store,
    Transaction,
    UploadRow,
    open_store,
)
from ftpipe.server.storage.data_dir import DataDirectory
from ftpipe.server.storage.tables import Base

NOW = 1_790_000_000
LATER = 4_000_000_000
JOB = "ft-AF1WoRqd3aJAHsqc9NY7iL8F"
SHARED = "ft:gpt-4o-mini-2024-07-18:org:weather:B7R9VjQd"
DELETED = "ft:gpt-4o-mini:acemeco:suffix:abc123"
RESPONSES = ("resp_677efb5139a88190b512bc3fef8e535d", "response_id")
CURSOR = "after"
LINE = b'{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]}\n'


class Seeder:
    """Puts the rows back.

    Args:
        data_dir: The running server's folder.
    """

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = DataDirectory(data_dir)
        self.store: Store = open_store(self.data_dir.database)

    def plant(self) -> None:
        """Empty every table and fill it with what the tests name."""
        with self.store.write() as tx:
            for table in reversed(Base.metadata.sorted_tables):
                tx.session.execute(delete(table))
            self._files(tx)
            self._jobs(tx)
            self._uploads(tx)
            self._chats(tx)

    def _files(self, tx: Transaction) -> None:
        for file_id, purpose in (("file-abc123", "fine-tune"), ("file_id", "assistants"), (CURSOR, "user_data")):
            self.data_dir.file(file_id).write_bytes(LINE * 10)
            tx.files.add(FileRow(file_id, "local", "a.jsonl", purpose, len(LINE) * 10, "0" * 64, NOW))

    def _jobs(self, tx: Transaction) -> None:
        # Its trainer takes an hour for the first step, so the job stays running through all tests.
        running = replace(_job(JOB), requested_hyperparameters={"n_epochs": 1, "fake_seconds": 3600})
        self.data_dir.job(JOB).path.mkdir(exist_ok=True)
        done: dict[str, Any] = {
            "status": "succeeded",
            "desired_state": "run",
            "has_trainer": False,
            "final_step": 1,
            "finished_at": NOW,
        }
        tx.jobs.add(replace(running, id=CURSOR, model_name="ft:x", status="failed", has_trainer=False))
        tx.jobs.add(running)
        for index, name in enumerate((JOB, SHARED, DELETED)):
            tx.jobs.add(replace(_job(f"done{index}"), model_name=name, fine_tuned_model=name, **done))
        tx.events.add(EventRow(CURSOR, JOB, NOW, "info", "message", "hello"))
        tx.checkpoints.add(CheckpointRow(CURSOR, JOB, NOW, 1, "ft:x:ckpt-step-1", {"step": 1, "train_loss": 0.5}))
        tx.permissions.add(PermissionRow("cp_zc4Q7MP6XxulcVzj4MZdwsAB", SHARED, "one", NOW))
        for cp_id, project in ((CURSOR, "project_id"), ("cp_other", "two")):
            tx.permissions.add(PermissionRow(cp_id, JOB, project, NOW))

    def _uploads(self, tx: Transaction) -> None:
        upload = UploadRow("upload_abc123", "local", "a", "assistants", len(LINE), "text/plain", "pending", NOW, LATER)
        self.data_dir.upload(upload.id).mkdir(exist_ok=True)
        self.data_dir.part(upload.id, "string").write_bytes(LINE)
        tx.uploads.add(upload)
        tx.parts.add(PartRow("string", upload.id, len(LINE), NOW))

    @staticmethod
    def _chats(tx: Transaction) -> None:
        for name in ("completion_id", CURSOR):
            tx.completions.add(_chat(name))
        for name in RESPONSES:
            tx.responses.add(_response(name))


def _chat(chat_id: str) -> CompletionRow:
    message = {"role": "assistant", "content": "ho", "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    body: dict[str, Any] = {
        "id": chat_id,
        "object": "chat.completion",
        "created": NOW,
        "model": "gpt-4o-mini",
        "choices": [choice],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
        "metadata": {},
    }
    messages = [{"role": "assistant", "content": "hi"}]  # the only role that the SDK's type for them has
    return CompletionRow(chat_id, "local", "gpt-4o-mini", NOW, 100, {}, messages, body)


def _response(response_id: str) -> ResponseRow:
    """A response to ``hi``, whose only input item is called as the tests name a cursor."""
    create = parse_request(CreateResponse, {"model": "gpt-4o-mini", "input": "hi"})
    builder = ResponseBuilder(response_head(response_id, create, "gpt-4o-mini"), ItemIds(response_id).new)
    builder.add_text("ho")
    builder.finish("stop", AnswerEnd("stop", prompt_tokens=1, cached_tokens=0, completion_tokens=1))
    item = {"id": CURSOR, "type": "message", "role": "user", "status": "completed"}
    return ResponseRow(
        id=response_id,
        owner="local",
        bytes=100,
        created_at=NOW,
        expires_at=LATER,
        previous_response_id=None,
        input_items=[item | {"content": [{"type": "input_text", "text": "hi"}]}],
        body=builder.body,
        deltas=builder.deltas,
    )


def _job(job_id: str) -> JobRow:
    return JobRow(
        id=job_id,
        owner="local",
        created_at=NOW,
        model="gpt-4o-mini",
        base="smollm2-135m-instruct",
        model_name=f"ft:{job_id}",
        method="supervised",
        training_file="file-abc123",
        validation_file=None,
        suffix=None,
        seed=1,
        requested_hyperparameters={"n_epochs": "auto", "batch_size": "auto", "learning_rate_multiplier": "auto"},
        status="running",
        validated=True,
        has_trainer=True,
    )


_SEEDER: list[Seeder] = []


def pytest_runtest_setup() -> None:
    """Put the rows back before every test."""
    if not _SEEDER:
        _SEEDER.append(Seeder(Path(os.environ["FTPIPE_DATA_DIR"])))
    _SEEDER[0].plant()
