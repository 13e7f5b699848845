"""Parse multipart forms as they arrive, and write their file to disk.

Starlette's ``request.form()`` uses the same parser, but it collects the whole form first, in a temporary file that may
be on another file system. Here the file is written where it can be renamed into place, its SHA-256 is computed on the
way, and a file over the limit ends the request at once.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from ftpipe.atomic_files import fsync
from ftpipe.server.protocol import ApiError, ReceivedUpload, bad_request
from ftpipe.server.storage.data_dir import new_body_path, sanitize_filename

MAX_FIELDS = 16
MAX_FIELD_BYTES = 16 * 1024
MAX_HEADER_BYTES = 8 * 1024


@dataclass(slots=True)
class _Part:
    """The part of the form that is being received."""

    headers: dict[str, str] = field(default_factory=dict)
    name: str = ""
    value: bytearray = field(default_factory=bytearray)
    target: BinaryIO | None = None


class MultipartFormParser:
    """Takes a multipart body piece by piece; ``close`` must always be called at the end.

    Args:
        content_type: The request's header, with the boundary.
        folder: Where the file is written under a random name.
        file_field: Name of the field with the file.
        max_file_bytes: Largest file.
    """

    def __init__(self, content_type: str, folder: Path, *, file_field: str, max_file_bytes: int) -> None:
        kind, options = parse_options_header(content_type)
        boundary = options.get(b"boundary", b"")
        if kind != b"multipart/form-data" or not 1 <= len(boundary) <= 200:
            message = "The body must be multipart/form-data with a boundary."
            raise ApiError(400, message, "invalid_content_type")
        self.fields: dict[str, str] = {}
        self.file: ReceivedUpload | None = None
        self._folder = folder
        self._file_field = file_field
        self._max_file_bytes = max_file_bytes
        self._part = _Part()
        self._header = (bytearray(), bytearray())
        self._part_count = 0
        self._size = 0
        self._hash = hashlib.sha256()
        self._temporary: Path | None = None
        self._is_complete = False
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._part_begin,
                "on_header_field": self._header_field,
                "on_header_value": self._header_value,
                "on_header_end": self._header_end,
                "on_headers_finished": self._headers_finished,
                "on_part_data": self._part_data,
                "on_part_end": self._part_end,
                "on_end": self._end,
            },
        )

    def feed(self, piece: bytes) -> None:
        """Take the next piece of the body.

        Raises:
            ApiError: 400 if it is not a valid form, 413 if a field or the file is too large.
        """
        try:
            self._parser.write(piece)
        except FormParserError as exc:
            message = "The multipart body is malformed."
            raise ApiError(400, message, "invalid_body") from exc

    def finish(self) -> None:
        """Check that the form is complete, and make the file durable.

        Raises:
            ApiError: 400 if the last boundary is missing.
        """
        if not self._is_complete:
            message = "The multipart body ends before its last boundary."
            raise ApiError(400, message, "invalid_body")
        if self._temporary is not None:
            fsync(self._temporary)

    def close(self) -> None:
        """Close and delete the temporary file, unless a handler has moved it."""
        if self._part.target is not None:
            self._part.target.close()
        if self._temporary is not None:
            self._temporary.unlink(missing_ok=True)

    def _part_begin(self) -> None:
        self._part = _Part()
        self._part_count += 1
        if self._part_count > MAX_FIELDS:
            message = f"The form has more than {MAX_FIELDS} parts."
            raise ApiError(413, message, "request_too_large")

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._append_header(0, data[start:end])

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._append_header(1, data[start:end])

    def _append_header(self, index: int, piece: bytes) -> None:
        self._header[index].extend(piece)
        if len(self._header[index]) > MAX_HEADER_BYTES:
            message = "A header inside the form is too long."
            raise ApiError(413, message, "request_too_large")

    def _header_end(self) -> None:
        name, value = self._header
        self._part.headers[name.decode("latin-1").lower()] = value.decode("latin-1")
        self._header = (bytearray(), bytearray())

    def _headers_finished(self) -> None:
        disposition = self._part.headers.get("content-disposition", "")
        _, options = parse_options_header(disposition)
        self._part.name = options.get(b"name", b"").decode("utf-8", "replace")
        if self._part.name == self._file_field:
            # Some clients send the file without a filename.
            self._open_file(options.get(b"filename", b"").decode("utf-8", "replace"))

    def _open_file(self, filename: str) -> None:
        if self.file is not None:
            message = f"The form has more than one '{self._file_field}'."
            raise bad_request(message, self._file_field)
        self._temporary = new_body_path(self._folder)
        self._part.target = self._temporary.open("xb", buffering=0)
        self.file = ReceivedUpload(self._temporary, sanitize_filename(filename), 0, "")

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._part.target is None:
            self._append_to_field(data[start:end])
            return
        self._size += end - start
        if self._size > self._max_file_bytes:
            message = f"The file is larger than {self._max_file_bytes} bytes."
            raise ApiError(413, message, "file_too_large", self._file_field)
        piece = memoryview(data)[start:end]
        self._hash.update(piece)
        while piece:
            piece = piece[self._part.target.write(piece) :]

    def _append_to_field(self, piece: bytes) -> None:
        self._part.value.extend(piece)
        if len(self._part.value) > MAX_FIELD_BYTES:
            message = "A field of the form is too long."
            raise ApiError(413, message, "request_too_large")

    def _part_end(self) -> None:
        if self._part.target is None:
            try:
                self.fields[self._part.name] = self._part.value.decode()
            except UnicodeDecodeError as exc:
                message = "A field of the form is not UTF-8."
                raise bad_request(message) from exc
        elif self.file is not None:
            self._part.target.close()
            self._part.target = None
            self.file = ReceivedUpload(self.file.path, self.file.filename, self._size, self._hash.hexdigest())

    def _end(self) -> None:
        self._is_complete = True
