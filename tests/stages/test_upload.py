"""The upload stage: the same bytes are sent once."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftpipe.errors import DatasetError, FtpipeError, ResponseLostError
from ftpipe.stages.upload import UploadDataset, content_name
from tests.fakes.harness import Harness
from tests.fakes.openai_client import Fault, lost_response, status_error
from tests.fakes.records import dataset_at


@pytest.fixture
def harness(tmp_path: Path) -> Harness:
    """A fresh harness."""
    return Harness(tmp_path)


def test_upload_reuses_file_with_same_bytes(harness: Harness) -> None:
    """The second upload reuses the file, and says so."""
    first = harness.upload()
    second = harness.upload()
    assert (first.id, first.reused) == (second.id, False)
    assert second.reused
    assert harness.client.calls["files.create"] == 1


def test_upload_finds_file_by_content_name(harness: Harness) -> None:
    """The name carries the digest, so a lost registry costs no second upload."""
    harness.upload()
    harness.registry = harness.open_registry("other.db")
    again = harness.upload()
    assert again.reused
    assert harness.client.calls["files.create"] == 1


def test_upload_ignores_same_name_with_other_content(harness: Harness) -> None:
    """A name proves nothing where the content can be read."""
    harness.dataset = dataset_at(harness.folder / "a.jsonl", b'{"a": 1}\n')
    other = harness.folder / "b.jsonl"
    other.write_bytes(b'{"a": 2}\n')
    harness.provider.files.upload(other, filename=content_name(harness.dataset), on_bytes=lambda _done: None)
    assert not harness.upload().reused


def test_upload_repeats_if_file_is_gone(harness: Harness) -> None:
    """What is remembered is looked up before it is used."""
    first = harness.upload()
    harness.provider.files.delete(first.id)
    assert not harness.upload().reused


def test_upload_lost_response_makes_no_second_file(harness: Harness) -> None:
    """The file that arrived is found by name."""
    harness.client.fail_next("files.create", Fault(error=lost_response(), executed=True))
    harness.upload()
    assert len(harness.client.stored_files) == 1


def test_upload_gives_up_after_three_attempts(harness: Harness) -> None:
    """Three tries, then exit code 5."""
    harness.client.fail_next("files.create", *[Fault(error=lost_response())] * 3)
    with pytest.raises(ResponseLostError) as caught:
        harness.upload()
    assert caught.value.exit_code == 5


def test_upload_refuses_changed_file(harness: Harness) -> None:
    """Nobody trains on bytes that nobody checked."""
    harness.dataset.path.write_bytes(b"other\n")
    with pytest.raises(DatasetError, match="has changed"):
        harness.upload()
    assert harness.client.calls["files.create"] == 0


def test_upload_reports_progress_in_bytes(harness: Harness) -> None:
    """It ends at the file's size."""
    dataset, calls = dataset_at(harness.folder / "a.jsonl", b"x" * 5000), list[tuple[int, int]]()
    UploadDataset(
        dataset, harness.provider, harness.registry, on_progress=lambda done, total: calls.append((done, total))
    ).run()
    assert calls[-1] == (5000, 5000)
    assert len(calls) > 2


def test_upload_waits_until_file_is_processed(harness: Harness) -> None:
    """Azure refuses a job on a file that is not processed yet."""
    waiting = {"id": "file-1", "bytes": 17, "filename": "a", "purpose": "fine-tune", "status": "pending"}
    harness.client.fail_next("files.create", Fault(response=waiting, executed=True))
    harness.client.fail_next(
        "files.retrieve", Fault(response=waiting), Fault(response={**waiting, "status": "processed"})
    )
    harness.profile = {"wait_file_processed": True}
    assert harness.upload().id == "file-1"
    assert len(harness.clock.slept) == 2


def test_upload_reports_why_file_was_refused(harness: Harness) -> None:
    """Its status details are the message."""
    broken = {"id": "file-1", "bytes": 17, "status": "error", "status_details": "Example 3 is missing key 'messages'"}
    harness.client.fail_next("files.create", Fault(response=broken))
    with pytest.raises(DatasetError, match="Example 3"):
        harness.upload()


def test_multipart_upload_resumes_with_received_parts(harness: Harness) -> None:
    """Ten parts; the sixth fails for good; the next run sends only what is missing."""
    harness.dataset = dataset_at(harness.folder / "a.jsonl", bytes(range(100)))
    harness.profile = {"uploads_above_bytes": 10, "part_bytes": 10}
    harness.client.fail_next("parts.create", *[None] * 5, *[Fault(error=status_error(403))] * 9)
    with pytest.raises(FtpipeError):
        harness.upload()
    harness.client.clear_faults()
    sent = len(harness.client.uploaded_parts)
    assert sent >= 5
    file = harness.upload()
    assert harness.client.contents[file.id] == bytes(range(100))
    assert harness.client.calls["uploads.create"] == 1
    assert len(harness.client.uploaded_parts) <= 10 + 1


def test_multipart_upload_restarts_after_expiry(harness: Harness) -> None:
    """After an hour the endpoint takes no more parts."""
    harness.dataset = dataset_at(harness.folder / "a.jsonl", bytes(range(100)))
    harness.profile = {"uploads_above_bytes": 10, "part_bytes": 50}
    harness.client.fail_next("parts.create", *[Fault(error=status_error(403))] * 2)
    with pytest.raises(FtpipeError):
        harness.upload()
    harness.clock.sleep(3600)
    harness.upload()
    assert harness.client.calls["uploads.create"] == 2
