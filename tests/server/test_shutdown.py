"""Nothing runs any more when the server has stopped."""

from __future__ import annotations

import threading
import time

import psutil
import pytest

from ftpipe.server.settings import ShadowPair, ShadowSettings
from tests.server.api.test_batches import RESPONSES, Gate, create, line
from tests.server.conftest import MakeClient, create_job, sdk, wait_for
from tests.server.fakes import TINY, FakeEngine

MAX_SECONDS = 60


@pytest.mark.slow
def test_no_thread_and_no_process_is_left(make_client: MakeClient, engine: FakeEngine) -> None:
    """After chats, streams, a job, mirrored chats, and in the middle of a batch."""
    threads, processes = set(threading.enumerate()), set(psutil.Process().children(recursive=True))
    shadow = ShadowSettings(pairs=(ShadowPair("gpt-4o-mini", TINY),), share=1.0)
    client = make_client(shadow=shadow)
    api = sdk(client)
    api.chat.completions.create(model="gpt-4o-mini", messages=[{"role": "user", "content": "hi"}], n=3)
    list(api.responses.create(model="gpt-4o-mini", input="hi", stream=True))
    wait_for(client, create_job(client)["id"], "succeeded")
    create_job(client, extras={"fake_seconds": 600})
    gate = Gate(engine, 2)
    create(api, *(line(f"r{index}", url=RESPONSES) for index in range(30)), endpoint=RESPONSES)
    assert gate.reached.wait(MAX_SECONDS)
    gate.opened.set()
    client.__exit__(None, None, None)
    deadline = time.monotonic() + MAX_SECONDS
    while left := [one for one in threading.enumerate() if one not in threads and one.name != "AnyIO worker thread"]:
        assert time.monotonic() < deadline, left
        time.sleep(0.01)
    assert set(psutil.Process().children(recursive=True)) - processes == set()
