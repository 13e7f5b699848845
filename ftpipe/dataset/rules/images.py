"""FT4: images."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from ftpipe.catalog.base_models import find_base
from ftpipe.catalog.host_bases import find_host_base
from ftpipe.dataset.image_tokens import decode_start, read_header
from ftpipe.dataset.json_line import Json
from ftpipe.dataset.record import DatasetRecord
from ftpipe.dataset.record_traits import IMAGES
from ftpipe.dataset.rules.base import RuleGroup, Violation, describe_value, escape_preview, speaker
from ftpipe.dataset.scan.statistics import ScanStatistics
from ftpipe.suggestions import did_you_mean

GROUP = RuleGroup("Images")
rule = GROUP.rule
_FORMATS = frozenset({"chat", "rft"})

MAX_IMAGES = {"openai": 10, "azure": 64, "together": 10}
EMBEDDED_IMAGES = frozenset({"together", "fireworks"})
"""Targets that read images only from the record itself. Source: their data preparation pages, 2026-08."""
MAX_IMAGE_BYTES = 10 * 1024 * 1024
MAX_IMAGE_EXAMPLES = 50_000
_KINDS = {"image/jpeg": "jpeg", "image/jpg": "jpeg", "image/png": "png", "image/webp": "webp"}
_SIGNED = re.compile(r"[?&](?:X-Amz-Signature|Signature|sig|token|access_token|key|X-Goog-Signature)=", re.IGNORECASE)
_PRIVATE = re.compile(
    r"(?:localhost|.*\.local|.*\.internal|127\..*|10\..*|192\.168\..*|172\.(?:1[6-9]|2\d|3[01])\..*|\[?::1\]?)$"
)


DETAILS = ("auto", "low", "high")
"""Values of ``detail``. Source: OpenAI vision fine-tuning guide, 2026-07-15."""


class Image(NamedTuple):
    """An image part of a message."""

    path: str
    message: dict[str, Any]
    value: Json
    """The value of ``image_url``; ``None`` if the part has no such key."""
    url: str
    """Empty if there is none."""


def images(row: DatasetRecord) -> Iterator[Image]:
    """Every image of a record."""
    for base, index, message in row.messages():
        content = message.get("content")
        for part_index, part in enumerate(content if type(content) is list else ()):
            if type(part) is dict and ("image_url" in part or part.get("type") == "image_url"):
                image = part.get("image_url")
                url = image.get("url") if type(image) is dict else image
                path = f"{base}[{index}].content[{part_index}].image_url"
                yield Image(path, message, image, url if type(url) is str else "")


@rule("FT401", "image-outside-user-message", "error", "D", "documented", when=IMAGES, formats=_FORMATS)
def image_outside_user_message(row: DatasetRecord) -> Iterator[Violation]:
    """An image is in a message that is not from the user.

    Why: Only user messages can contain images.
    Fix: Move the image to the user's message.
    Source: OpenAI vision fine-tuning guide, 2026-07-15.
    """
    for image in images(row):
        if image.message.get("role") != "user":
            yield Violation(image.path, f"The {speaker(image.message)} contains an image.")


@rule(
    "FT402",
    "too-many-images",
    "error",
    "D",
    "documented",
    when=IMAGES,
    formats=_FORMATS,
    nebius="off",
    fireworks="off",
    bedrock="off",
    local="off",
)
def too_many_images(row: DatasetRecord) -> Iterator[Violation]:
    """An example has more images than the target accepts.

    Why: The service rejects the example.
    Fix: Split the example, or remove images.
    Source: OpenAI vision fine-tuning guide, 2026-07-15 (10); Together's data preparation page, 2026-08 (10); the Azure
        limit (64) is second-hand.
    """
    limit = MAX_IMAGES.get(row.file.target)
    number = sum(1 for _ in images(row))
    if limit and number > limit:
        yield Violation("messages", f"The example has {number} images; {row.file.target} accepts at most {limit}.")


@rule("FT403", "image-too-large", "error", "S", "documented", when=IMAGES, formats=_FORMATS)
def image_too_large(row: DatasetRecord) -> Iterator[Violation]:
    """An embedded image is larger than 10 MB.

    Why: The service skips it without an error.
    Fix: Scale it down; the service uses at most 2048 pixels anyway.
    Source: OpenAI vision fine-tuning guide, 2026-07-15.
    """
    for path, _, _, url in images(row):
        body = url.partition(",")[2] if url.startswith("data:") else ""
        size = len(body) * 3 // 4
        if size > MAX_IMAGE_BYTES:
            yield Violation(f"{path}.url", f"The image has {size / 1024 / 1024:.1f} MB; the limit is 10 MB.")


@rule("FT404", "unsupported-image-format", "error", "S", "documented", when=IMAGES, formats=_FORMATS)
def unsupported_image_format(row: DatasetRecord) -> Iterator[Violation]:
    """An embedded image is not JPEG, PNG or WEBP in RGB or RGBA.

    Why: The service skips it without an error. The first bytes count, not the declared type.
    Fix: Save it as an RGB JPEG or PNG.
    Source: OpenAI vision fine-tuning guide, 2026-07-15.
    """
    for path, _, _, url in images(row):
        if not url.startswith("data:"):
            continue
        header = read_header(decode_start(url))
        if header.kind and header.kind not in ("jpeg", "png", "webp"):
            yield Violation(f"{path}.url", f"The image is {header.kind}.")
        elif header.kind and header.color not in ("rgb", "rgba", ""):
            yield Violation(f"{path}.url", f"The {header.kind} image is {header.color}, not RGB or RGBA.")


@rule(
    "FT406",
    "too-many-image-examples",
    "error",
    "D",
    "documented",
    scope="file",
    formats=_FORMATS,
    nebius="off",
    together="off",
    fireworks="off",
    bedrock="off",
    local="off",
)
def too_many_image_examples(stats: ScanStatistics) -> Iterator[Violation]:
    """More than 50,000 examples have images.

    Why: The service rejects the file.
    Fix: Remove examples.
    Source: OpenAI vision fine-tuning guide, 2026-07-15.
    """
    if stats.with_images > MAX_IMAGE_EXAMPLES:
        yield Violation("", f"{stats.with_images:,} examples have images; the limit is {MAX_IMAGE_EXAMPLES:,}.")


@rule("FT407", "invalid-image-url", "error", "D", "documented", when=IMAGES, formats=_FORMATS)
def invalid_image_url(row: DatasetRecord) -> Iterator[Violation]:
    """An image URL is neither an http(s) URL nor a valid base64 data URL.

    Why: The service cannot read files on your machine, and skips images that it cannot decode. Together and Fireworks
        read only data URLs.
    Fix: Use an https URL, or data:image/png;base64,… with the type that the bytes have.
    Source: OpenAI vision fine-tuning guide, 2026-07-15; Together's data preparation page and Fireworks' vision guide,
        2026-08.
    """
    for path, _, value, url in images(row):
        scheme = url.partition(":")[0].lower()
        if type(value) is str and url:
            shown = escape_preview(url, 50)
            yield Violation(path, f"image_url is the string '{shown}', not an object with a url.")
            continue
        if scheme in ("http", "https"):
            if row.file.target in EMBEDDED_IMAGES:
                message = f"The image is behind a URL; {row.file.target} reads only embedded images."
                hint = "Embed it: data:image/png;base64,… with the type that the bytes have."
                yield Violation(f"{path}.url", message, hint=hint)
            continue
        if not url:
            yield Violation(f"{path}.url", f"The image cannot be read: {missing_url(value)}.")
            continue
        fault = (
            data_url_error(url)
            if scheme == "data"
            else f"the URL '{escape_preview(url, 50)}' is neither http(s) nor data"
        )
        if fault:
            yield Violation(f"{path}.url", f"The image cannot be read: {fault}.")


def missing_url(image: Json) -> str:
    """What ``image_url`` is instead of an object with a URL."""
    if type(image) is not dict:
        return f"image_url is {describe_value(image)}, not an object with a url"
    return f"the url is {describe_value(image['url'])}" if "url" in image else "image_url has no url"


def data_url_error(url: str) -> str:
    """What is wrong with a data URL; empty if it is valid."""
    head, comma, body = url.partition(",")
    declared = head[5:].removesuffix(";base64")
    if not comma or not head.endswith(";base64"):
        return "the data URL is not base64"
    if declared not in _KINDS:
        return f"the declared type is '{escape_preview(declared, 40)}'"
    try:
        base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError):
        return "the base64 is invalid"
    kind = read_header(decode_start(url)).kind
    if not kind:
        return "the bytes are not an image"
    return (
        f"the declared type is {declared}, but the bytes are {kind}"
        if kind != _KINDS[declared] and kind in _KINDS.values()
        else ""
    )


@rule(
    "FT408",
    "image-may-be-skipped",
    "info",
    "S",
    "documented",
    scope="file",
    formats=_FORMATS,
    nebius="off",
    together="off",
    fireworks="off",
    bedrock="off",
    local="off",
)
def image_may_be_skipped(stats: ScanStatistics) -> Iterator[Violation]:
    """The file has images; the service removes those that show people, faces, children or CAPTCHAs.

    Why: The training set becomes smaller, and no message says so.
    Fix: Compare the job's trained tokens with the estimate.
    Source: OpenAI vision fine-tuning guide, 2026-07-15.
    """
    if stats.with_images:
        yield Violation("", f"{stats.with_images:,} examples have images.")


@rule("FT409", "model-lacks-vision", "error", "D", "documented", when=IMAGES, formats=_FORMATS)
def model_lacks_vision(row: DatasetRecord) -> Iterator[Violation]:
    """The base model does not support images.

    Why: The job is rejected.
    Fix: Choose a base model with vision, such as gpt-4o-2024-08-06.
    Source: OpenAI vision fine-tuning guide, 2026-07-15.
    """
    model = row.file.model
    base, host_base = (find_base(model), find_host_base(model, row.file.target)) if model else (None, None)
    if (base is not None and base.vision is False) or (host_base is not None and host_base.images is False):
        name = base.name if base else escape_preview(model, 80)
        yield Violation("messages", f"The example has an image, but {name} accepts text only.")


@rule("FT410", "private-image-url", "warning", "P", "inferred", when=IMAGES, formats=_FORMATS)
def private_image_url(row: DatasetRecord) -> Iterator[Violation]:
    """An image URL contains a signature or token, or points to a private address.

    Why: Signed URLs expire before the job runs, and give others access. Private addresses cannot be reached.
    Fix: Embed the image as a data URL.
    Source: practice.
    """
    for path, _, _, url in images(row):
        if not url.startswith(("http://", "https://")):
            continue
        try:
            host = urlsplit(url).hostname or ""
        except ValueError:
            host = ""
        if _SIGNED.search(url):
            yield Violation(f"{path}.url", "The URL contains a signature or token.")
        elif _PRIVATE.match(host):
            yield Violation(f"{path}.url", f"The host {escape_preview(host, 60)} is private.")


@rule("FT411", "invalid-image-detail", "error", "D", "documented", when=IMAGES, formats=_FORMATS)
def invalid_image_detail(row: DatasetRecord) -> Iterator[Violation]:
    """The ``detail`` of an image is not auto, low or high.

    Why: The service knows only these values, and the detail decides how many tokens the image costs.
    Fix: Use "low", "high" or "auto", or leave it out.
    Source: OpenAI vision fine-tuning guide, 2026-07-15.
    """
    for path, _, value, _ in images(row):
        if type(value) is dict and "detail" in value and value["detail"] not in DETAILS:
            detail = value["detail"]
            hint = did_you_mean(detail, DETAILS) if type(detail) is str else ""
            yield Violation(f"{path}.detail", f"The detail is {describe_value(detail)}.", hint=hint)
