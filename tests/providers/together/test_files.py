"""Files at Together: presigned addresses, reuse, checks, and parts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ftpipe.errors import InvalidResponseError, ResponseLostError
from ftpipe.providers.profiles import find_profile
from ftpipe.providers.provider import Provider
from ftpipe.providers.signed_urls import require_signed_url
from ftpipe.providers.together.files import TogetherFiles
from ftpipe.providers.together.open import api_client
from tests.fakes.scripted_server import LOST, Fault
from tests.fakes.together import TogetherServer

CONTENT = b'{"messages": []}\n' * 100


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A dataset."""
    file = tmp_path / "train.jsonl"
    file.write_bytes(CONTENT)
    return file


@pytest.fixture
def in_parts(server: TogetherServer) -> Iterator[TogetherFiles]:
    """The files, with parts of 700 bytes above 1,000."""
    profile = find_profile("together")
    api = api_client(profile, server.origin, server.key or "", sleep=lambda _seconds: None, attempts=2)
    yield TogetherFiles(api, multipart_above_bytes=1000, part_bytes=700)
    api.close()


def upload(provider: Provider, path: Path) -> str:
    return provider.files.upload(path, filename="ftpipe-1.jsonl", on_bytes=lambda _done: None).id


def test_upload_puts_bytes_without_the_key_and_starts_the_check(
    server: TogetherServer, provider: Provider, path: Path
) -> None:
    """The fixture compares each request with the description, and notices a key at the storage."""
    done: list[int] = []
    file = provider.files.upload(path, filename="ftpipe-1.jsonl", on_bytes=done.append)
    assert server.contents[file.id] == CONTENT
    statuses = [provider.files.get(file.id).status for _ in range(3)]
    assert (file.status, statuses) == ("pending", ["pending", "running", "processed"])
    assert done[-1] == len(CONTENT)


def test_upload_of_same_bytes_reuses_the_file(server: TogetherServer, provider: Provider, path: Path) -> None:
    """Together answers 409 with the id of the file."""
    assert upload(provider, path) == upload(provider, path) == "file-0001"
    assert server.calls["PUT /storage/{id}"] == 1


def test_upload_that_never_arrived_is_sent_again(server: TogetherServer, provider: Provider, path: Path) -> None:
    """Killed between the address and the bytes: the host lists a file that has none."""
    server.script("PUT /storage/{id}", Fault(executed=False, then="drop"))
    with pytest.raises(ResponseLostError):
        upload(provider, path)
    assert provider.files.find(filename="ftpipe-1.jsonl", size=0) == []
    file_id = upload(provider, path)
    assert server.contents[file_id] == CONTENT
    assert len(server.files) == 1


def test_upload_whose_check_was_not_started_is_not_sent_again(
    server: TogetherServer, provider: Provider, path: Path
) -> None:
    """Killed between the bytes and the check."""
    server.script("POST /v1/files/{id}/preprocess", Fault(executed=False, then="drop"))
    with pytest.raises(ResponseLostError):
        upload(provider, path)
    assert provider.files.find(filename="ftpipe-1.jsonl", size=len(CONTENT)) == []
    upload(provider, path)
    assert server.calls["PUT /storage/{id}"] == 1


def test_find_sees_a_file_whose_check_started(server: TogetherServer, provider: Provider, path: Path) -> None:
    """The answer to the last step was lost; the file is there."""
    server.script("POST /v1/files/{id}/preprocess", LOST)
    with pytest.raises(ResponseLostError):
        upload(provider, path)
    assert [file.id for file in provider.files.find(filename="ftpipe-1.jsonl", size=len(CONTENT))] == ["file-0001"]


def test_refused_file_says_which_line(server: TogetherServer, provider: Provider, path: Path) -> None:
    """From the host's report."""
    server.file_status, server.file_error = "INVALID_FORMAT", "Line 7: no role"
    file_id = upload(provider, path)
    *_, refused = (provider.files.get(file_id) for _ in range(3))
    assert (refused.status, refused.status_details) == ("error", "Line 7: no role")


def test_large_file_goes_up_in_parts(server: TogetherServer, in_parts: TogetherFiles, path: Path) -> None:
    """Each to its own address, with the headers that the host names; a lost part is sent again."""
    server.script("PUT /storage/{id}/{id}", None, LOST)
    file = in_parts.upload(path, filename="ftpipe-1.jsonl", on_bytes=lambda _done: None)
    assert server.contents[file.id] == CONTENT
    assert server.calls["PUT /storage/{id}/{id}"] == 4
    assert "x-part" in server.requests[-2]


def test_failed_parts_cancel_the_upload(server: TogetherServer, in_parts: TogetherFiles, path: Path) -> None:
    """Nothing is left that would be billed or block the next try."""
    server.always("PUT /storage/{id}/{id}", Fault(executed=False, status=403))
    with pytest.raises(Exception, match="refused the transfer"):
        in_parts.upload(path, filename="ftpipe-1.jsonl", on_bytes=lambda _done: None)
    assert server.uploads == {}


@pytest.mark.parametrize(
    "url",
    [
        "http://storage.example.com/x",
        "https://127.0.0.1/x",
        "https://127.1/x",
        "https://0x7f000001/x",
        "https://2130706433/x",
        "https://[::1]/x",
        "https://[::ffff:10.0.0.1]/x",
        "https://localhost/x",
        "https://metadata.google.internal/x",
        "https://user@storage.example.com/x",
        "https://169.254.169.254/x",
        "https://127\u30020\u30020\u30021/x",
        "https://localhost\uff61/x",
        "https://metadata.google\u3002internal/x",
        "https://[",
        "https://storage.example.com:abc/x",
        "https://storage.example.com/\x00",
        "file:///etc/passwd",
        "",
    ],
)
def test_signed_url_of_private_host_is_refused(url: str) -> None:
    """A host cannot make ftpipe send a dataset into the user's network, or without TLS."""
    with pytest.raises(InvalidResponseError):
        require_signed_url(url, api_url="https://api.together.ai")


def test_signed_url_of_public_host_is_accepted() -> None:
    """And one on this machine only for an API on this machine."""
    url = "https://storage.example.com/x?signature=1"
    assert require_signed_url(url, api_url="https://api.together.ai") == url
    local = "http://127.0.0.1:9000/x"
    assert require_signed_url(local, api_url="http://127.0.0.1:8000") == local


def test_storage_error_does_not_show_the_signature(server: TogetherServer, provider: Provider, path: Path) -> None:
    """The query of a presigned URL is a secret."""
    server.always("PUT /storage/{id}", Fault(executed=False, status=403))
    with pytest.raises(Exception, match="refused the transfer") as caught:
        upload(provider, path)
    assert "signature" not in str(caught.value)
