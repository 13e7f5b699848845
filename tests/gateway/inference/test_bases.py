"""Which model of an inference server is a base model of this machine."""

from __future__ import annotations

import pytest

from ftpipe.errors import UsageError
from ftpipe.gateway.inference.bases import find_base, parse_base_names, refuse_unlisted
from ftpipe.gateway.inference.client import ListedModel

TINY = "smollm2-135m-instruct"


def listed(*names: str, root: str = "") -> list[ListedModel]:
    return [ListedModel(name, root or name, is_adapter=False) for name in names]


@pytest.mark.parametrize(
    ("base", "models", "found"),
    [
        (TINY, listed(TINY, "other"), TINY),
        (TINY, listed("HuggingFaceTB/SmolLM2-135M-Instruct"), "HuggingFaceTB/SmolLM2-135M-Instruct"),
        (TINY, listed("served", root=f"/models/{TINY}/"), "served"),
        ("org/name", listed("served", root="org/name"), "served"),
        ("org/name", listed("x", root="/hub/models--org--name/snapshots/abc/"), "x"),
        ("org/name", listed("other/Name"), "other/Name"),
        ("org/name", listed("other/name", "third/name"), None),
        ("org/name", listed("org/name", "third/name"), "org/name"),
        ("/data/my-base", listed("my-base"), "my-base"),
        (TINY, listed("other"), None),
        (TINY, [ListedModel(TINY, TINY, is_adapter=True)], None),
        (TINY, [], None),
    ],
)
def test_find_base(base: str, models: list[ListedModel], found: str | None) -> None:
    """An exact name comes before a similar one, and two that are similar are none."""
    assert find_base(base, models, {}) == found


def test_find_base_takes_the_owners_name_first() -> None:
    assert find_base(TINY, listed(TINY, "mine"), {TINY: "mine"}) == "mine"


def test_parse_base_names() -> None:
    assert parse_base_names(["a=b", "org/c=d=e"]) == {"a": "b", "org/c": "d=e"}
    for value in (["a"], ["=b"], ["a="], ["a=b", "a=c"]):
        with pytest.raises(UsageError, match="--inference-model"):
            parse_base_names(value)


def test_refuse_unlisted_suggests_the_nearest_name() -> None:
    refuse_unlisted({"a": "llama-8b"}, listed("llama-8b"), "http://gpu")
    with pytest.raises(UsageError, match="http://gpu has no model lama-8b") as raised:
        refuse_unlisted({"a": "lama-8b"}, listed("llama-8b"), "http://gpu")
    assert "--inference-model a=llama-8b" in raised.value.hint
