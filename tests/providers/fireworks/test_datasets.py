"""Datasets of Fireworks as files: ids by content, both ways of uploading, states, and hostile answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftpipe.errors import FtpipeError, InvalidResponseError, NotFoundError, RequestRefusedError
from ftpipe.providers.fireworks import datasets
from ftpipe.providers.fireworks.datasets import dataset_id_of, signed_headers
from ftpipe.providers.provider import Provider
from ftpipe.providers.responses import RemoteFile
from tests.fakes.fireworks import RESOURCE_ID, FireworksServer
from tests.fakes.scripted_server import Fault, refusal
from tests.faults.environment import LINE

NAME = "ftpipe-0123456789abcdef.jsonl"
CREATE = "POST /datasets"
UPLOAD = "POST /datasets/{dataset}:upload"


def upload(provider: Provider, folder: Path, lines: int = 12) -> RemoteFile:
    path = folder / "train.jsonl"
    path.write_bytes(LINE * lines)
    return provider.files.upload(path, filename=NAME, on_bytes=lambda _done: None)


def test_upload_sends_bytes_and_number_of_examples(provider: Provider, host: FireworksServer, tmp_path: Path) -> None:
    file = upload(provider, tmp_path)
    assert (file.id, file.status) == ("ftpipe-0123456789abcdef", "processing")
    assert host.contents[file.id] == LINE * 12
    assert host.datasets[file.id]["exampleCount"] == "12"
    assert provider.files.get(file.id).status == "processed"


def test_upload_of_ready_dataset_sends_nothing(provider: Provider, host: FireworksServer, tmp_path: Path) -> None:
    """409 on the id means the same content, so its bytes are not sent again."""
    file = upload(provider, tmp_path)
    provider.files.get(file.id)
    assert upload(provider, tmp_path).status == "processed"
    assert (host.calls[CREATE], host.calls[UPLOAD]) == (2, 1)


def test_upload_continues_dataset_without_bytes(provider: Provider, host: FireworksServer, tmp_path: Path) -> None:
    """A killed upload leaves a dataset that waits for its bytes; they are sent into it."""
    host.script(UPLOAD, refusal(400))
    with pytest.raises(RequestRefusedError):
        upload(provider, tmp_path)
    assert provider.files.find(filename=NAME, size=1) == []
    upload(provider, tmp_path)
    assert (len(host.datasets), host.calls[UPLOAD]) == (1, 2)


def test_upload_of_large_file_uses_signed_url_without_key(
    provider: Provider, host: FireworksServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bytes are there before the dataset is validated; the URL gets its signed headers and no key."""
    monkeypatch.setattr(datasets, "MAX_DIRECT_BYTES", 100)
    file = upload(provider, tmp_path)
    assert host.contents[file.id] == LINE * 12
    assert (host.calls[UPLOAD], host.calls["PUT /signed"]) == (0, 1)
    order = [name for name in host.calls if "Upload" in name or "signed" in name]
    assert order == [
        "POST /datasets/{dataset}:getUploadEndpoint",
        "PUT /signed",
        "POST /datasets/{dataset}:validateUpload",
    ]
    assert host.urls_with_key == []


@pytest.mark.parametrize(
    "url",
    ["http://example.com/x", "https://169.254.169.254/latest", "https://10.0.0.1/x", "ftp://example.com/x", "", "x"],
)
def test_upload_refuses_signed_url_of_another_kind(
    provider: Provider, host: FireworksServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    """A host that names a private address, or one without TLS, gets no bytes sent there."""
    monkeypatch.setattr(datasets, "MAX_DIRECT_BYTES", 100)
    body = b'{"filenameToSignedUrls": {"ftpipe-0123456789abcdef.jsonl": "%s"}}' % url.encode()
    host.script("POST /datasets/{dataset}:getUploadEndpoint", Fault(body=body))
    with pytest.raises(FtpipeError) as caught:
        upload(provider, tmp_path)
    assert isinstance(caught.value, (InvalidResponseError, RequestRefusedError))
    assert host.calls["PUT /signed"] == 0


def test_find_returns_ready_dataset_by_its_name(provider: Provider, tmp_path: Path) -> None:
    file = upload(provider, tmp_path)
    assert provider.files.find(filename=NAME, size=5)[0].id == file.id
    assert provider.files.find(filename="ftpipe-other.jsonl", size=5) == []
    assert [each.id for each in provider.files.all()] == [file.id]


def test_get_reports_refused_dataset(provider: Provider, host: FireworksServer, tmp_path: Path) -> None:
    file = upload(provider, tmp_path)
    host.dataset_status = {"code": "INVALID_ARGUMENT", "message": "line 3 has no messages"}
    read = provider.files.get(file.id)
    assert (read.status, read.status_details) == ("error", "line 3 has no messages")


def test_content_and_delete(provider: Provider, host: FireworksServer, tmp_path: Path) -> None:
    file = upload(provider, tmp_path)
    assert provider.files.content(file.id) == LINE * 12
    provider.files.delete(file.id)
    assert host.datasets == {}
    with pytest.raises(NotFoundError):
        provider.files.get(file.id)


@pytest.mark.parametrize("file_id", ["../jobs/x", "A", "accounts/acme/models/x", "a" * 64, "x?y"])
def test_get_of_another_name_sends_nothing(provider: Provider, host: FireworksServer, file_id: str) -> None:
    with pytest.raises(NotFoundError):
        provider.files.get(file_id)
    assert not host.requests


@pytest.mark.parametrize("filename", [NAME, "Ünïcode & Co.jsonl", "0123.jsonl", "a" * 200, ".jsonl"])
def test_dataset_id_has_the_form_of_an_id(filename: str) -> None:
    assert RESOURCE_ID.fullmatch(dataset_id_of(filename))


def test_signed_headers_are_those_of_the_signature() -> None:
    assert signed_headers("https://x/y?X-Goog-SignedHeaders=host", 5) == {}
    assert signed_headers("https://x/y?X-Goog-SignedHeaders=content-type%3Bhost", 5) == {
        "content-type": "application/octet-stream"
    }
