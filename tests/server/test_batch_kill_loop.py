"""A server with a batch under SIGKILL at any moment: no answer is lost, doubled or computed again.

``FTPIPE_KILLS=200 pytest -s tests/server/test_batch_kill_loop.py`` runs two hundred kills; without it, some.
"""

from __future__ import annotations

import contextlib
import json
import random
import sqlite3
import time
from pathlib import Path

import openai
import pytest

from tests.faults.kill_loop import KILLS, SEED
from tests.server.processes import ServerProcess

REQUESTS = 400
MAX_RUN_SECONDS = 1.5
PROMPTS: tuple[tuple[str, dict[str, object]], ...] = (
    ("/v1/responses", {"input": "hi"}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}]}),
)
"""Endpoints of batches, and what their requests are; each batch has the next one."""


def api_of(server: ServerProcess) -> openai.OpenAI:
    """OpenAI's client."""
    return openai.OpenAI(base_url=server.note["base_url"], api_key="none", max_retries=0)


def stored_answers(data_dir: Path) -> set[str]:
    """The answers that are on the disk."""
    database = sqlite3.connect(f"file:{data_dir / 'server.db'}?mode=ro", uri=True)
    with contextlib.closing(database):
        return {content for (content,) in database.execute("SELECT content FROM batch_answers")}


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_batch_survives_kills(tmp_path: Path) -> None:
    """Each stored answer, which has a random id, is in the output as it was, and each request has one answer."""
    rng, kills, partial = random.Random(SEED), 0, 0
    server = ServerProcess(tmp_path / "data")
    server.data_dir.mkdir()
    while kills < KILLS:
        server.start()
        api = api_of(server)
        endpoint, prompt = PROMPTS[kills % len(PROMPTS)]
        line = {"method": "POST", "url": endpoint, "body": {"model": "gpt-4o-mini", **prompt}}
        content = "".join(json.dumps({"custom_id": f"r{index}", **line}) + "\n" for index in range(REQUESTS))
        file = api.files.create(file=("in.jsonl", content.encode()), purpose="batch")
        batch = api.batches.create(
            input_file_id=file.id, endpoint=endpoint, completion_window="24h"  # type: ignore[arg-type]
        )  # fmt: skip
        stored: set[str] = set()
        while (latest := api_of(server).batches.retrieve(batch.id)).status != "completed":
            time.sleep(rng.uniform(0, MAX_RUN_SECONDS))
            server.kill()
            kills += 1
            answers = stored_answers(server.data_dir)
            partial += 0 < len(answers) < REQUESTS
            assert not answers or stored <= answers
            stored |= answers
            server.start()
        output = api_of(server).files.content(latest.output_file_id or "").text.splitlines()
        assert [json.loads(one)["custom_id"] for one in output] == [f"r{index}" for index in range(REQUESTS)]
        assert stored <= set(output)
        assert stored_answers(server.data_dir) == set()
        assert not (server.data_dir / "lost+found").exists()
        server.stop()
    assert partial, "no kill came between the first and the last answer"
