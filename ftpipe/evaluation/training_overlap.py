"""Counts the items that a model was trained on: scores on them say nothing about new data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftpipe.canonical_json import canonical_json
from ftpipe.dataset import iter_records, prepared
from ftpipe.dataset.duplicates.fingerprints import hash64
from ftpipe.dataset.formats import message_lists
from ftpipe.dataset.identity import sha256_of_dataset
from ftpipe.errors import LocalStateError, UsageError
from ftpipe.records import Model
from ftpipe.records.evaluation import ItemSet, TrainingOverlap

if TYPE_CHECKING:
    from ftpipe.registry import Registry


def find_training_overlap(name: str, model: Model, item_set: ItemSet, registry: Registry) -> TrainingOverlap:
    """How many items have a prompt that the model was trained on, compared as ``prepare --holdout`` compares.

    The count is unknown if the training file, and its prepared copy, are gone or were changed.

    Args:
        name: The arm's name.
        model: Its registered model, whose run names the training file and its digest.
        item_set: The items.
        registry: Has the run.
    """
    total = len(item_set.items)
    if item_set.sha256 == model.dataset_sha256:
        return TrainingOverlap(arm=name, items=total, total=total)
    path = find_training_file(model, registry)
    if path is None:
        return TrainingOverlap(arm=name, items=None, total=total)
    prompts = [_prompt_hash(item.messages) for item in item_set.items]
    trained = set(prompts).intersection(_trained_prompts(path))
    return TrainingOverlap(arm=name, items=sum(prompt in trained for prompt in prompts), total=total)


def find_training_file(model: Model, registry: Registry) -> Path | None:
    """The file that a model was trained on, or its prepared copy; ``None`` if it is gone or was changed."""
    return next((path for path in _training_paths(model, registry) if _has_digest(path, model.dataset_sha256)), None)


def _training_paths(model: Model, registry: Registry) -> Iterator[Path]:
    """The file that was trained on, and its copies in the project's state folder."""
    run = registry.runs.find(model.run_id) if model.run_id else None
    if run is not None and run.dataset is not None:
        yield run.dataset.path
    for folder, digests in prepared.folders():
        if model.dataset_sha256 in digests:
            yield folder / "train.jsonl"


def _has_digest(path: Path, sha256: str) -> bool:
    try:
        return sha256_of_dataset(path) == sha256
    except (UsageError, LocalStateError):
        return False


def _trained_prompts(path: Path) -> Iterator[int]:
    """Hash of the prompt of each record: everything before the last answer."""
    for _, record in iter_records(path):
        lists = message_lists(record, "dpo" if "input" in record else "chat")
        messages = lists[0][1] if lists else None
        if isinstance(messages, list) and messages and all(isinstance(message, dict) for message in messages):
            yield _prompt_hash(messages[:-1] if messages[-1].get("role") == "assistant" else messages)


def _prompt_hash(messages: Sequence[dict[str, Any]]) -> int:
    """Items have no weights, so they are left out."""
    return hash64(
        canonical_json([{key: value for key, value in message.items() if key != "weight"} for message in messages])
    )
