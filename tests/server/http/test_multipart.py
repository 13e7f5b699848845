"""Multipart forms that are broken or too large."""

from __future__ import annotations

import pytest
from starlette.testclient import TestClient

from tests.server.conftest import assert_openai_error


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"x", "multipart/form-data", 400),
        (b"x", "application/json", 400),
        (b"x", "multipart/form-data; boundary=b", 400),
        (b"--b\r\n\r\n--b--\r\n", "multipart/form-data; boundary=b", 400),
        (b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\n\xff\r\n--b--\r\n',
         "multipart/form-data; boundary=b", 400),
        (b'--b\r\nContent-Disposition: form-data; name="x\xff\xf2"\r\n\r\n1\r\n--b--\r\n',
         "multipart/form-data; boundary=b", 400),
        (b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nno end',
         "multipart/form-data; boundary=b", 400),
        (b"--b\r\n" + b"X" * 20_000 + b": y\r\n\r\n", "multipart/form-data; boundary=b", 400),
        (b'--b\r\nContent-Disposition: form-data; name="p"\r\n\r\n' + b"x" * 20_000 + b"\r\n--b--\r\n",
         "multipart/form-data; boundary=b", 413),
        ((b'--b\r\nContent-Disposition: form-data; name="p"\r\n\r\nx\r\n') * 20 + b"--b--\r\n",
         "multipart/form-data; boundary=b", 413),
    ],
)  # fmt: skip
def test_multipart_refuses_broken_or_large_form(client: TestClient, content: bytes, kind: str, status: int) -> None:
    """Every part of it has a limit."""
    answer = client.post("/v1/files", content=content, headers={"Content-Type": kind})
    assert answer.status_code == status
    assert_openai_error(answer)
