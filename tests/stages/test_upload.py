"""Upload: the same bytes are sent once."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftpipe.errors import DatasetError, FtpipeError, ResponseLostError
from ftpipe.registry import Registry, open_registry
from ftpipe.stages.upload import UploadDataset, content_name
from tests.fakes.clock import Clock
from tests.fakes.openai_client import FakeOpenAI, Fault, lost_answer, status_error
from tests.fakes.records import dataset_at, provider_over


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """A registry of its own."""
    return open_registry(tmp_path / "registry.db")


def test_the_same_bytes_are_not_sent_twice_to_the_same_endpoint(tmp_path: Path, registry: Registry) -> None:
    """The second upload reuses the file, and says so."""
    client, dataset = FakeOpenAI(), dataset_at(tmp_path / "a.jsonl")
    provider = provider_over(client)
    first = UploadDataset(dataset, provider, registry).run()
    second = UploadDataset(dataset, provider, registry).run()
    assert (first.id, first.reused) == (second.id, False)
    assert second.reused
    assert client.calls["files.create"] == 1


def test_a_file_is_found_by_its_content_name_when_the_registry_is_new(tmp_path: Path, registry: Registry) -> None:
    """The name carries the digest, so a lost registry costs no second upload."""
    client, dataset = FakeOpenAI(), dataset_at(tmp_path / "a.jsonl")
    provider = provider_over(client)
    UploadDataset(dataset, provider, registry).run()
    again = UploadDataset(dataset, provider, open_registry(tmp_path / "other.db")).run()
    assert again.reused
    assert client.calls["files.create"] == 1


def test_a_file_of_the_same_name_with_other_content_is_not_reused(tmp_path: Path, registry: Registry) -> None:
    """A name proves nothing where the content can be read."""
    client, dataset = FakeOpenAI(), dataset_at(tmp_path / "a.jsonl", b'{"a": 1}\n')
    provider = provider_over(client)
    impostor = tmp_path / "b.jsonl"
    impostor.write_bytes(b'{"a": 2}\n')
    provider.files.upload(impostor, filename=content_name(dataset), on_bytes=lambda _done: None)
    assert not UploadDataset(dataset, provider, registry).run().reused


def test_a_file_that_is_gone_at_the_endpoint_is_uploaded_again(tmp_path: Path, registry: Registry) -> None:
    """What is remembered is looked up before it is used."""
    client, dataset = FakeOpenAI(), dataset_at(tmp_path / "a.jsonl")
    provider = provider_over(client)
    first = UploadDataset(dataset, provider, registry).run()
    provider.files.delete(first.id)
    assert not UploadDataset(dataset, provider, registry).run().reused


def test_a_lost_answer_does_not_make_a_second_file(tmp_path: Path, registry: Registry) -> None:
    """The file that arrived is found by name."""
    client, dataset = FakeOpenAI(), dataset_at(tmp_path / "a.jsonl")
    client.fail("files.create", Fault(error=lost_answer(), executed=True))
    UploadDataset(dataset, provider_over(client), registry).run()
    assert len(client.stored_files) == 1


def test_an_upload_that_never_arrives_ends_with_an_error_that_says_nothing_was_paid(
    tmp_path: Path, registry: Registry
) -> None:
    """Three tries, then exit code 5."""
    client, dataset = FakeOpenAI(), dataset_at(tmp_path / "a.jsonl")
    client.fail("files.create", *[Fault(error=lost_answer())] * 3)
    with pytest.raises(ResponseLostError) as caught:
        UploadDataset(dataset, provider_over(client), registry, sleep=Clock().sleep).run()
    assert caught.value.exit_code == 5


def test_a_file_that_changed_since_it_was_checked_is_refused(tmp_path: Path, registry: Registry) -> None:
    """Nobody trains on bytes that nobody checked."""
    client, dataset = FakeOpenAI(), dataset_at(tmp_path / "a.jsonl")
    dataset.path.write_bytes(b"other\n")
    with pytest.raises(DatasetError, match="has changed"):
        UploadDataset(dataset, provider_over(client), registry).run()
    assert client.calls["files.create"] == 0


def test_the_progress_is_in_bytes(tmp_path: Path, registry: Registry) -> None:
    """It ends at the file's size."""
    dataset, heard = dataset_at(tmp_path / "a.jsonl", b"x" * 5000), list[tuple[int, int]]()
    UploadDataset(
        dataset,
        provider_over(FakeOpenAI()),
        registry,
        on_progress=lambda done, total: heard.append((done, total)),
    ).run()
    assert heard[-1] == (5000, 5000)
    assert len(heard) > 2


def test_a_file_in_processing_is_waited_for_where_the_endpoint_asks_for_it(tmp_path: Path, registry: Registry) -> None:
    """Azure refuses a job on a file that is not processed yet."""
    client, clock, dataset = FakeOpenAI(), Clock(), dataset_at(tmp_path / "a.jsonl")
    waiting = {"id": "file-1", "bytes": 17, "filename": "a", "purpose": "fine-tune", "status": "pending"}
    client.fail("files.create", Fault(answer=waiting, executed=True))
    client.fail("files.retrieve", Fault(answer=waiting), Fault(answer={**waiting, "status": "processed"}))
    provider = provider_over(client, wait_file_processed=True)
    assert UploadDataset(dataset, provider, registry, sleep=clock.sleep).run().id == "file-1"
    assert len(clock.slept) == 2


def test_a_file_that_the_endpoint_refuses_names_the_reason(tmp_path: Path, registry: Registry) -> None:
    """Its status details are the message."""
    client, dataset = FakeOpenAI(), dataset_at(tmp_path / "a.jsonl")
    broken = {"id": "file-1", "bytes": 17, "status": "error", "status_details": "Example 3 is missing key 'messages'"}
    client.fail("files.create", Fault(answer=broken))
    with pytest.raises(DatasetError, match="Example 3"):
        UploadDataset(dataset, provider_over(client), registry).run()


def test_a_large_file_goes_up_in_parts_and_a_broken_upload_goes_on_with_those_that_arrived(
    tmp_path: Path, registry: Registry
) -> None:
    """Ten parts; the sixth fails for good; the next run sends only what is missing."""
    client, clock, dataset = FakeOpenAI(), Clock(), dataset_at(tmp_path / "a.jsonl", bytes(range(100)))
    provider = provider_over(client, clock, uploads_above_bytes=10, part_bytes=10)
    client.fail("parts.create", *[None] * 5, *[Fault(error=status_error(403))] * 9)
    with pytest.raises(FtpipeError):
        UploadDataset(dataset, provider, registry, clock=clock).run()
    client._faults.clear()
    sent = len(client._parts)
    assert sent >= 5
    file = UploadDataset(dataset, provider, registry, clock=clock).run()
    assert client.contents[file.id] == bytes(range(100))
    assert client.calls["uploads.create"] == 1
    assert len(client._parts) <= 10 + 1


def test_an_upload_that_has_expired_is_begun_again(tmp_path: Path, registry: Registry) -> None:
    """After an hour the endpoint takes no more parts."""
    client, clock, dataset = FakeOpenAI(), Clock(), dataset_at(tmp_path / "a.jsonl", bytes(range(100)))
    provider = provider_over(client, clock, uploads_above_bytes=10, part_bytes=50)
    client.fail("parts.create", *[Fault(error=status_error(403))] * 2)
    with pytest.raises(FtpipeError):
        UploadDataset(dataset, provider, registry, clock=clock).run()
    clock.sleep(3600)
    UploadDataset(dataset, provider, registry, clock=clock).run()
    assert client.calls["uploads.create"] == 2
