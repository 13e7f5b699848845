"""Proposed bases: by what the data needs, by size and price, with the reason and the source."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ftpipe.catalog.training_prices import PriceTable
from ftpipe.errors import UsageError
from ftpipe.migration.base_proposals import (
    JUDGEMENT,
    best_proposal,
    describe_task,
    find_proposal,
    propose_bases,
    propose_local_bases,
)
from ftpipe.records import Method
from ftpipe.records.migration import BaseProposal, TrainingTask
from ftpipe.records.trainable_base import TrainableBase
from ftpipe.stages.validate import validate
from tests.dataset.negative_examples import call, exchange, image, result, with_calls, with_parts
from tests.dataset.samples import chats, preference, write

TASK = TrainingTask(method=Method.SUPERVISED, examples=100, longest_tokens=500)


def names(proposals: tuple[BaseProposal, ...]) -> list[str]:
    """The bases without an obstacle, in their order."""
    return [one.name for one in proposals if not one.obstacle]


def proposals_for(base: str, target: str, **changes: object) -> tuple[BaseProposal, ...]:
    """The proposals for data like ``TASK``."""
    task = TASK.model_copy(update=changes)
    return propose_bases(base, task, target=target, prices=PriceTable.load(target=target))


@pytest.mark.parametrize(
    ("base", "target", "expected"),
    [
        ("gpt-4o-mini-2024-07-18", "together", "Qwen/Qwen3.5-9B"),
        ("gpt-4o-mini", "fireworks", "accounts/fireworks/models/qwen3-8b"),
        ("gpt-4.1-mini-2025-04-14", "together", "openai/gpt-oss-20b"),
        ("gpt-4.1-2025-04-14", "together", "Qwen/Qwen3.8-27B"),
        ("gpt-4.1", "fireworks", "accounts/fireworks/models/gemma-4-31b"),
        ("gpt-4o-2024-08-06", "azure", "qwen-32b"),
        ("gpt-4o-mini-2024-07-18", "nebius", "meta-llama/Llama-3.1-8B-Instruct"),
    ],
)
def test_best_base_fits_the_size_and_is_the_cheapest(base: str, target: str, expected: str) -> None:
    assert names(proposals_for(base, target))[0] == expected


@pytest.mark.parametrize("target", ["together", "fireworks", "nebius", "azure"])
def test_each_proposal_says_that_it_is_a_judgement_and_names_its_source(target: str) -> None:
    for one in proposals_for("gpt-4.1-mini", target):
        assert JUDGEMENT in one.reason
        assert one.source


def test_price_is_that_of_the_method() -> None:
    supervised, dpo = (
        next(
            one for one in proposals_for("gpt-4.1-mini", "together", method=method) if one.name == "openai/gpt-oss-20b"
        )
        for method in (Method.SUPERVISED, Method.DPO)
    )
    assert (supervised.price_per_million, dpo.price_per_million) == (0.40, 1.00)
    assert supervised.price_as_of == "2026-09-11"


def test_unknown_base_is_guessed_and_the_reason_says_so() -> None:
    first = proposals_for("my-own-base", "together")[0]
    assert first.name == "openai/gpt-oss-20b"
    assert "a guess" in first.reason


@pytest.mark.parametrize(
    ("changes", "name", "obstacle"),
    [
        ({"image_examples": 3}, "openai/gpt-oss-20b", "reads no images"),
        ({"longest_tokens": 20_000}, "openai/gpt-oss-120b", "more than 16,384 tokens would be cut"),
    ],
)
def test_base_that_cannot_learn_the_data_comes_last_with_its_obstacle(
    changes: dict[str, object], name: str, obstacle: str
) -> None:
    proposals = proposals_for("gpt-4.1-mini", "together", **changes)
    refused = next(one for one in proposals if one.name == name)
    assert obstacle in refused.obstacle
    obstacles = [bool(one.obstacle) for one in proposals]
    assert obstacles == sorted(obstacles)


def test_method_that_a_host_does_not_train_has_no_proposal() -> None:
    proposals = proposals_for("gpt-4.1-mini", "nebius", method=Method.DPO)
    with pytest.raises(UsageError, match="no base model of Nebius fits") as error:
        best_proposal(proposals, "Nebius")
    assert "method dpo" in error.value.hint


def test_named_base_needs_not_be_in_the_list() -> None:
    proposals = proposals_for("gpt-4.1-mini", "fireworks")
    assert find_proposal(proposals, "qwen3-8b", "fireworks").name == "accounts/fireworks/models/qwen3-8b"
    assert find_proposal(proposals, "some/new-model", "fireworks").reason == "named with --base"


def local_base(name: str, **fields: object) -> TrainableBase:
    """A base of this machine."""
    values = {"provider": "local", "availability": "installed", "methods": ("supervised",), "fits_in_memory": True}
    return TrainableBase.model_validate({"name": name, "parameters": 10**9, "context": 8192, **values, **fields})


def test_local_bases_here_come_before_those_to_fetch_and_large_before_small() -> None:
    bases = [
        local_base("small", parameters=10**8),
        local_base("large"),
        local_base("default", parameters=10**7, is_default=True, availability="downloadable"),
        local_base("elsewhere", parameters=4 * 10**9, availability="downloadable"),
        local_base("huge", parameters=10**11, fits_in_memory=False, memory_bytes=10**12),
        local_base("short", context=100),
    ]
    proposals = propose_local_bases(bases, TASK)
    assert names(proposals) == ["large", "small", "default", "elsewhere"]
    assert {one.name: one.obstacle.split(",")[0] for one in proposals if one.obstacle} == {
        "huge": "training needs about 1.0 TB",
        "short": "it reads 100 tokens",
    }


def test_task_is_read_from_the_data(tmp_path: Path) -> None:
    rows = [
        *chats(11),
        with_calls(call(), after=(result(), {"role": "assistant", "content": "It is cold."})),
        with_parts(image("https://a.org/b.png")),
        exchange("Why?", reasoning="because"),
    ]
    path = write(tmp_path / "a.jsonl", [*rows])
    task = describe_task(path, validate(path, target="together"))
    assert (task.method, task.examples) == (Method.SUPERVISED, 14)
    assert (task.tool_examples, task.image_examples, task.reasoning_examples) == (1, 1, 1)
    assert task.longest_tokens > 10


def test_task_of_preference_pairs(tmp_path: Path) -> None:
    row = preference(0)
    row["input"]["tools"] = [{"type": "function", "function": {"name": "f"}}]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in (row, preference(1))))
    task = describe_task(path, validate(path, target="together"))
    assert (task.method, task.tool_examples) == (Method.DPO, 1)
