"""Upload: the same bytes are sent once."""

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


def test_the_same_bytes_are_not_sent_twice_to_the_same_endpoint(harness: Harness) -> None:
    """The second upload reuses the file, and says so."""
    first = harness.upload()
    second = harness.upload()
    assert (first.id, first.reused) == (second.id, False)
    assert second.reused
    assert harness.client.calls["files.create"] == 1


def test_a_file_is_found_by_its_content_name_when_the_registry_is_new(harness: Harness) -> None:
    """The name carries the digest, so a lost registry costs no second upload."""
    harness.upload()
    harness.registry = harness.open_registry("other.db")
    again = harness.upload()
    assert again.reused
    assert harness.client.calls["files.create"] == 1


def test_a_file_of_the_same_name_with_other_content_is_not_reused(harness: Harness) -> None:
    """A name proves nothing where the content can be read."""
    harness.dataset = dataset_at(harness.folder / "a.jsonl", b'{"a": 1}\n')
    other = harness.folder / "b.jsonl"
    other.write_bytes(b'{"a": 2}\n')
    harness.provider.files.upload(other, filename=content_name(harness.dataset), on_bytes=lambda _done: None)
    assert not harness.upload().reused


def test_a_file_that_is_gone_at_the_endpoint_is_uploaded_again(harness: Harness) -> None:
    """What is remembered is looked up before it is used."""
    first = harness.upload()
    harness.provider.files.delete(first.id)
    assert not harness.upload().reused


def test_a_lost_answer_does_not_make_a_second_file(harness: Harness) -> None:
    """The file that arrived is found by name."""
    harness.client.fail_next("files.create", Fault(error=lost_response(), executed=True))
    harness.upload()
    assert len(harness.client.stored_files) == 1


def test_an_upload_that_never_arrives_ends_with_an_error_that_says_nothing_was_paid(harness: Harness) -> None:
    """Three tries, then exit code 5."""
    harness.client.fail_next("files.create", *[Fault(error=lost_response())] * 3)
    with pytest.raises(ResponseLostError) as caught:
        harness.upload()
    assert caught.value.exit_code == 5


def test_a_file_that_changed_since_it_was_checked_is_refused(harness: Harness) -> None:
    """Nobody trains on bytes that nobody checked."""
    harness.dataset.path.write_bytes(b"other\n")
    with pytest.raises(DatasetError, match="has changed"):
        harness.upload()
    assert harness.client.calls["files.create"] == 0


def test_the_progress_is_in_bytes(harness: Harness) -> None:
    """It ends at the file's size."""
    dataset, calls = dataset_at(harness.folder / "a.jsonl", b"x" * 5000), list[tuple[int, int]]()
    UploadDataset(
        dataset, harness.provider, harness.registry, on_progress=lambda done, total: calls.append((done, total))
    ).run()
    assert calls[-1] == (5000, 5000)
    assert len(calls) > 2


def test_a_file_in_processing_is_waited_for_where_the_endpoint_asks_for_it(harness: Harness) -> None:
    """Azure refuses a job on a file that is not processed yet."""
    waiting = {"id": "file-1", "bytes": 17, "filename": "a", "purpose": "fine-tune", "status": "pending"}
    harness.client.fail_next("files.create", Fault(response=waiting, executed=True))
    harness.client.fail_next(
        "files.retrieve", Fault(response=waiting), Fault(response={**waiting, "status": "processed"})
    )
    harness.profile = {"wait_file_processed": True}
    assert harness.upload().id == "file-1"
    assert len(harness.clock.slept) == 2


def test_a_file_that_the_endpoint_refuses_names_the_reason(harness: Harness) -> None:
    """Its status details are the message."""
    broken = {"id": "file-1", "bytes": 17, "status": "error", "status_details": "Example 3 is missing key 'messages'"}
    harness.client.fail_next("files.create", Fault(response=broken))
    with pytest.raises(DatasetError, match="Example 3"):
        harness.upload()


def test_a_large_file_goes_up_in_parts_and_a_broken_upload_goes_on_with_those_that_arrived(harness: Harness) -> None:
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


def test_an_upload_that_has_expired_is_begun_again(harness: Harness) -> None:
    """After an hour the endpoint takes no more parts."""
    harness.dataset = dataset_at(harness.folder / "a.jsonl", bytes(range(100)))
    harness.profile = {"uploads_above_bytes": 10, "part_bytes": 50}
    harness.client.fail_next("parts.create", *[Fault(error=status_error(403))] * 2)
    with pytest.raises(FtpipeError):
        harness.upload()
    harness.clock.sleep(3600)
    harness.upload()
    assert harness.client.calls["uploads.create"] == 2
