"""Propose base models for the place of another host's: by what the data needs, by size and by price.

The ranking is a judgement by size and price. Nobody has measured it on the user's data; only the comparison of the
retrained model does.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ftpipe.catalog.base_models import find_base
from ftpipe.catalog.host_bases import HostBase, Size, drops_long_examples, host_bases, size_of
from ftpipe.catalog.training_prices import PriceTable
from ftpipe.dataset import iter_records
from ftpipe.dataset.rules.messages.fields import REASONING_KEYS
from ftpipe.errors import UsageError
from ftpipe.formatting import format_bytes
from ftpipe.records import Method, Report
from ftpipe.records.migration import BaseProposal, TrainingTask
from ftpipe.records.trainable_base import TrainableBase

JUDGEMENT = "a judgement by size and price, not measured"
LOCAL_SOURCE = "this machine's memory and models, as `ftpipe models bases` lists them"
UNKNOWN_SIZE: Size = "medium"
"""Size of a model of which none is known."""
_UNKNOWN_PRICE = float("inf")


def describe_task(path: Path, report: Report) -> TrainingTask:
    """What a training file needs from a base model.

    Args:
        path: The training file.
        report: Its report, with token figures.
    """
    tools = images = reasoning = 0
    for _, record in iter_records(path):
        source = record.get("input") if isinstance(record.get("input"), dict) else record
        messages = source.get("messages") if isinstance(source, dict) else None
        listed = [message for message in messages if isinstance(message, dict)] if isinstance(messages, list) else []
        tools += bool(isinstance(source, dict) and source.get("tools")) or any(m.get("tool_calls") for m in listed)
        images += any(_has_image(message.get("content")) for message in listed)
        reasoning += any(message.keys() & REASONING_KEYS for message in listed)
    return TrainingTask(
        method=report.method,
        examples=report.dataset.examples,
        longest_tokens=report.tokens.max if report.tokens else 0,
        tool_examples=tools,
        image_examples=images,
        reasoning_examples=reasoning,
    )


def propose_bases(old_base: str, task: TrainingTask, *, target: str, prices: PriceTable) -> tuple[BaseProposal, ...]:
    """The bases of a hosted target that can take the place of another one; the best first, then those that cannot.

    Args:
        old_base: Base of the model that is replaced, by any of its names.
        task: What the data needs.
        target: The new host.
        prices: Its training prices.
    """
    known = find_base(old_base)
    size = size_of(known.name) if known else None
    ranked = sorted(
        (_proposal(base, task, size, target, prices) for base in host_bases(target)),
        key=lambda item: (bool(item[1].obstacle), item[0], _price(item[1]), item[1].name),
    )
    return tuple(proposal for _, proposal in ranked)


def propose_local_bases(bases: Iterable[TrainableBase], task: TrainingTask) -> tuple[BaseProposal, ...]:
    """The bases of this machine, the best first: those that are here, by size; then those that it could fetch.

    Args:
        bases: From ``local_bases``.
        task: What the data needs.
    """
    proposals = [(base, _local_proposal(base, task)) for base in bases]
    proposals.sort(
        key=lambda item: (
            bool(item[1].obstacle),
            not item[0].is_default and item[0].availability != "installed",
            -(item[0].parameters or 0),
            item[0].name,
        )
    )
    return tuple(proposal for _, proposal in proposals)


def best_proposal(proposals: Sequence[BaseProposal], target: str) -> BaseProposal:
    """The first base that can be trained.

    Raises:
        UsageError: There is none; the hint names the first obstacle.
    """
    for proposal in proposals:
        if not proposal.obstacle:
            return proposal
    first = f"{proposals[0].name}: {proposals[0].obstacle}" if proposals else f"no base model of {target} is known"
    raise UsageError(f"no base model of {target} fits this data", f"{first}; name one with --base")


def find_proposal(proposals: Sequence[BaseProposal], name: str, target: str) -> BaseProposal:
    """The proposal for a base that the user has named; one that is not in the list has no obstacle that is known."""
    for proposal in proposals:
        if name.lower() in (proposal.name.lower(), proposal.name.lower().rsplit("/", 1)[-1]):
            return proposal
    return BaseProposal(name=name, target=target, reason="named with --base", source="your own choice")


def _proposal(
    base: HostBase, task: TrainingTask, size: Size | None, target: str, prices: PriceTable
) -> tuple[int, BaseProposal]:
    """The rank by size, and the proposal."""
    wanted = size or UNKNOWN_SIZE
    rank = base.succeeds.index(wanted) if wanted in base.succeeds else len(base.succeeds) + 1
    row = prices.row(base.name)
    fit = f"its size fits a {wanted} model" if wanted in base.succeeds else f"it is for a {base.succeeds[0]} model"
    if size is None:
        fit += ", which is a guess: the size of the old base is not known"
    parameters = f"{base.parameters_b:g} billion parameters, " if base.parameters_b else ""
    proposal = BaseProposal(
        name=base.name,
        target=target,
        parameters_b=base.parameters_b,
        price_per_million=row.price_for(task.method) if row else None,
        currency=row.currency if row else "USD",
        price_as_of=row.as_of.isoformat() if row and row.as_of else None,
        reason=f"{parameters}{fit}; {JUDGEMENT}",
        source=base.source,
        obstacle=_obstacle(base, task, target),
    )
    return rank, proposal


def _obstacle(base: HostBase, task: TrainingTask, target: str) -> str:
    if task.method.value not in base.methods:
        return f"it is not trained with the method {task.method.value}"
    if task.image_examples and base.images is not True:
        what = "reads no images" if base.images is False else "is not known to read images"
        return f"it {what}, and {task.image_examples:,} examples have some"
    if task.tool_examples and base.tools is False:
        return f"it is not trained on tools, and {task.tool_examples:,} examples have some"
    if task.reasoning_examples and base.reasoning is False:
        return f"it is not trained on reasoning, and {task.reasoning_examples:,} examples have some"
    limit = base.dpo_tokens if task.method is Method.DPO else base.tokens
    if limit is not None and task.longest_tokens > limit:
        fate = "would be left out" if drops_long_examples(target) else "would be cut"
        return f"examples of more than {limit:,} tokens {fate}, and the longest has {task.longest_tokens:,}"
    return ""


def _local_proposal(base: TrainableBase, task: TrainingTask) -> BaseProposal:
    memory = f"training needs about {format_bytes(base.memory_bytes)}" if base.memory_bytes else "memory not known"
    state = "it is on this machine" if base.availability == "installed" else "it has to be fetched first"
    gate = ", after its licence is accepted" if base.is_gated and base.availability != "installed" else ""
    obstacle = ""
    if task.method not in base.methods:
        obstacle = f"it is not trained with the method {task.method.value}"
    elif task.image_examples:
        obstacle = f"local models read no images, and {task.image_examples:,} examples have some"
    elif base.fits_in_memory is False:
        obstacle = f"{memory}, more than this machine has"
    elif base.context is not None and task.longest_tokens > base.context:
        obstacle = f"it reads {base.context:,} tokens, and the longest example has {task.longest_tokens:,}"
    return BaseProposal(
        name=base.name,
        target="local",
        parameters_b=round(base.parameters / 1e9, 2) if base.parameters else None,
        price_per_million=base.price_per_million,
        currency=base.currency,
        price_as_of=base.price_as_of,
        reason=f"{state}{gate}; {memory}; {JUDGEMENT}",
        source=LOCAL_SOURCE,
        obstacle=obstacle,
    )


def _price(proposal: BaseProposal) -> float:
    return _UNKNOWN_PRICE if proposal.price_per_million is None else proposal.price_per_million


def _has_image(content: Any) -> bool:  # noqa: ANN401  # any JSON value
    parts = content if isinstance(content, list) else []
    return any(isinstance(part, dict) and "image_url" in part for part in parts)
