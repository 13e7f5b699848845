"""Faults during the upload: the bytes arrive once, or the error says why they did not."""

from __future__ import annotations

import hashlib
import threading
import time

import pytest

from ftpipe.errors import DatasetError, FtpipeError, InvalidResponseError, RequestRefusedError, ResponseLostError
from ftpipe.records import RunState
from tests.fakes.scripted_server import LOST, NEVER, RESET, Fault, busy, refusal
from tests.faults.chaos_proxy import ChaosProxy, Toxics
from tests.faults.environment import LINE, ONE_OF_EACH, FaultEnvironment

FILES = "POST /files"
PARTS = "POST /uploads/{id}/parts"
COMPLETE = "POST /uploads/{id}/complete"
IN_PARTS = {"uploads_above_bytes": 1000, "part_bytes": 4096}

LOST_UPLOADS = {
    "dropped": LOST,
    "reset": RESET,
    "cut": Fault(then="cut"),
    "500": refusal(500, executed=True),
    "html": Fault(body=b"<html>"),
    "null": Fault(body=b"null"),
    "no id": Fault(body=b'{"object": "file"}'),
}


@pytest.fixture
def multipart(environment: FaultEnvironment) -> FaultEnvironment:
    """A dataset that goes up in about seven parts."""
    environment.content = LINE * 300
    environment.profile = IN_PARTS
    environment.__post_init__()
    return environment


@pytest.mark.parametrize("name", LOST_UPLOADS)
def test_upload_finds_file_after_lost_response(environment: FaultEnvironment, name: str) -> None:
    """Row 3: the file is there; it is found by its content name, and used."""
    environment.endpoint.script(FILES, LOST_UPLOADS[name])
    assert environment.train().state == RunState.REGISTERED
    assert environment.counts() == ONE_OF_EACH
    assert environment.endpoint.calls[FILES] == 1


@pytest.mark.parametrize("fault", [NEVER, refusal(503), busy(Retry_After="0.1"), busy()], ids=str)
def test_upload_repeats_file_that_did_not_arrive(environment: FaultEnvironment, fault: Fault) -> None:
    """Rows 3, 6: uploads are not paid, so after a search the file is sent again."""
    environment.endpoint.script(FILES, fault)
    assert environment.train().state == RunState.REGISTERED
    assert environment.counts() == ONE_OF_EACH


def test_upload_gives_up_if_host_never_answers(environment: FaultEnvironment) -> None:
    """Row 3: after a few tries the error says that nothing was paid."""
    environment.endpoint.always(FILES, NEVER)
    with pytest.raises(ResponseLostError) as caught:
        environment.train()
    assert (caught.value.exit_code, caught.value.paid) == (5, "no")
    assert environment.endpoint.calls[FILES] == 3


def test_upload_repeats_deleted_file(environment: FaultEnvironment) -> None:
    """Row 11: a remembered file that is gone is not used for a job."""
    environment.train()
    environment.endpoint.files.clear()
    run = environment.train(force_new=True)
    assert run.file is not None
    assert run.file.id in environment.endpoint.files


@pytest.mark.parametrize("status", ["error", "deleted"])
def test_upload_refused_file_is_dataset_error(environment: FaultEnvironment, status: str) -> None:
    """Row 12: the endpoint's reason is told, exit 1, and no job is created."""
    environment.endpoint.file_status = status
    environment.endpoint.file_details = "Example 2 is missing key 'messages' (line 2)"
    with pytest.raises(DatasetError, match="line 2"):
        environment.train()
    assert not environment.endpoint.jobs


def test_upload_stuck_processing_ends_after_limit(environment: FaultEnvironment) -> None:
    """Row 12: the wait is bounded, and the message says where it hangs."""
    environment.endpoint.file_status = "uploaded"
    environment.speed = 0.0
    with pytest.raises(RequestRefusedError, match="still 'uploaded' after 30 minutes"):
        environment.train(wait_file_processed=True)
    environment.endpoint.file_status = "processed"
    assert environment.resume(wait_file_processed=True).state == RunState.REGISTERED
    assert environment.counts() == ONE_OF_EACH


def test_upload_file_changed_while_sent_is_not_used(environment: FaultEnvironment) -> None:
    """Row 28: appended to from outside during the upload: no job, and the wrong bytes are not found again."""
    environment.endpoint.before = lambda route: (
        environment.rewrite(environment.content + LINE) if route == FILES else None
    )
    with pytest.raises(DatasetError, match="changed"):
        environment.train()
    assert not environment.endpoint.jobs
    environment.endpoint.before = lambda _route: None
    environment.rewrite(environment.content)
    assert environment.resume().state == RunState.REGISTERED
    (job,) = environment.endpoint.jobs.values()
    assert environment.endpoint.files[job["training_file"]]["sha256"] == environment.digest


def test_upload_ignores_same_name_and_size_with_other_bytes(environment: FaultEnvironment) -> None:
    """Row 28: a found file is compared by content where the endpoint serves it."""
    environment.endpoint.store(f"ftpipe-{environment.digest[:16]}.jsonl", environment.content[::-1])
    environment.train()
    (job,) = environment.endpoint.jobs.values()
    assert environment.endpoint.files[job["training_file"]]["sha256"] == environment.digest


def test_multipart_upload_assembles_parts_in_order(multipart: FaultEnvironment) -> None:
    """The parts are put together in order, and the endpoint's MD5 agrees."""
    assert multipart.train().state == RunState.REGISTERED
    (file,) = multipart.endpoint.files.values()
    assert (file["sha256"], file["bytes"]) == (multipart.digest, len(multipart.content))
    assert multipart.endpoint.calls[PARTS] == -(-len(multipart.content) // 4096)


@pytest.mark.parametrize("name", [*LOST_UPLOADS, "429"])
def test_multipart_upload_repeats_part_after_lost_response(multipart: FaultEnvironment, name: str) -> None:
    """Row 3: only the ids that are named count, so a part that arrived twice does no harm."""
    fault = LOST_UPLOADS.get(name, busy(Retry_After="0.1"))
    multipart.endpoint.script(PARTS, None, fault, None, fault)
    assert multipart.train().state == RunState.REGISTERED
    (file,) = multipart.endpoint.files.values()
    assert file["sha256"] == multipart.digest


@pytest.mark.parametrize("name", LOST_UPLOADS)
def test_multipart_upload_finds_file_after_lost_completion(multipart: FaultEnvironment, name: str) -> None:
    """Row 3: the file exists; it is found by name and size, not put together again."""
    multipart.endpoint.script(COMPLETE, LOST_UPLOADS[name])
    assert multipart.train().state == RunState.REGISTERED
    assert multipart.counts() == ONE_OF_EACH


@pytest.mark.parametrize("name", LOST_UPLOADS)
def test_multipart_upload_restarts_after_lost_start(multipart: FaultEnvironment, name: str) -> None:
    """Row 3: an upload that nobody knows the id of costs nothing and expires by itself."""
    multipart.endpoint.script("POST /uploads", LOST_UPLOADS[name])
    assert multipart.train().state == RunState.REGISTERED
    assert multipart.counts() == ONE_OF_EACH


def test_multipart_upload_resumes_with_received_parts(multipart: FaultEnvironment) -> None:
    """Part ids and digests are kept as they come, so resume sends only what is missing."""
    multipart.endpoint.script(PARTS, *[None] * 4, *[refusal(401)] * 3)
    with pytest.raises(FtpipeError):
        multipart.train()
    multipart.endpoint.forget(PARTS)
    before = multipart.endpoint.calls[PARTS]
    assert multipart.resume().state == RunState.REGISTERED
    assert multipart.endpoint.calls[PARTS] - before <= 4
    (file,) = multipart.endpoint.files.values()
    assert file["sha256"] == multipart.digest


@pytest.mark.parametrize("announced", [True, False], ids=["announced", "silent"])
def test_multipart_upload_restarts_after_expiry(multipart: FaultEnvironment, announced: bool) -> None:
    """Row 11: two seconds of life, told or not: the parts are sent into a new upload."""
    multipart.endpoint.upload_life, multipart.endpoint.announces_expiry = 0.3, announced
    multipart.endpoint.script(PARTS, None, None, *[refusal(401)] * 3)
    with pytest.raises(FtpipeError):
        multipart.train()
    multipart.endpoint.forget(PARTS)
    time.sleep(0.4)
    multipart.endpoint.upload_life = 3600
    assert multipart.resume().state == RunState.REGISTERED
    assert len(multipart.endpoint.uploads) >= 2
    assert multipart.counts() == ONE_OF_EACH


def test_multipart_upload_refuses_file_changed_between_parts(multipart: FaultEnvironment) -> None:
    """Row 28: the digest of what was read differs: the upload is dropped, and nothing is trained."""
    changed = threading.Event()

    def change(route: str) -> None:
        if route == "POST /uploads" and not changed.is_set():
            changed.set()
            multipart.rewrite(multipart.content[:-1] + b" ")

    multipart.endpoint.before = change
    with pytest.raises(DatasetError, match="changed while it was uploaded"):
        multipart.train()
    assert not multipart.endpoint.files
    multipart.rewrite(multipart.content)
    assert multipart.resume().state == RunState.REGISTERED
    (file,) = multipart.endpoint.files.values()
    assert file["sha256"] == hashlib.sha256(multipart.content).hexdigest()


def test_multipart_upload_refuses_other_assembled_size(multipart: FaultEnvironment) -> None:
    """A 200 whose file has another size is an error, and no job is created."""
    body = b'{"id": "upload_0001", "status": "completed", "file": {"id": "file-9", "bytes": 5, "status": "processed"}}'
    multipart.endpoint.always(COMPLETE, Fault(body=body))
    with pytest.raises(InvalidResponseError, match="assembled 5 bytes"):
        multipart.train()
    assert not multipart.endpoint.jobs


def test_multipart_upload_ignores_part_with_error_body(multipart: FaultEnvironment) -> None:
    """The lesson of object stores: a status is not an answer."""
    multipart.endpoint.script(PARTS, Fault(executed=False, body=b'{"error": {"message": "InternalError"}}'))
    assert multipart.train().state == RunState.REGISTERED
    (file,) = multipart.endpoint.files.values()
    assert file["sha256"] == multipart.digest


def test_multipart_upload_survives_broken_connections(multipart: FaultEnvironment) -> None:
    """Row 3: resets and cuts on the way; every part arrives in the end."""
    with ChaosProxy(multipart.endpoint.port) as proxy:
        multipart.base_url = proxy.base_url
        toxics = iter([Toxics(reset_peer=0), Toxics(), Toxics(limit_data=20), Toxics(), Toxics(slicer=50)])

        def spoil(route: str) -> None:
            if route == PARTS:
                proxy.toxics = next(toxics, Toxics())

        multipart.endpoint.before = spoil
        assert multipart.train().state == RunState.REGISTERED
    (file,) = multipart.endpoint.files.values()
    assert file["sha256"] == multipart.digest
