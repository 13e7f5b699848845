"""List the base models that can be trained: on this machine with the memory they need, or at a provider."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ftpipe.atomic_files import read_json
from ftpipe.catalog.base_models import base_models, example_limit, find_base
from ftpipe.catalog.hub_models import hub_models
from ftpipe.catalog.training_prices import PriceRow, PriceTable
from ftpipe.modeling.base_facts import BaseFacts
from ftpipe.modeling.base_models import (
    DEFAULT_BASE,
    DEFAULT_LICENCE,
    PACKAGE_BYTES,
    downloaded_bases,
    find_installed_folder,
    installed_bases,
)
from ftpipe.modeling.machine import available_memory
from ftpipe.modeling.memory import TrainingSetup, estimate_memory
from ftpipe.modeling.model_shape import ModelShape
from ftpipe.records import Method
from ftpipe.records.trainable_base import Availability, TrainableBase

LOCAL_METHODS = (Method.SUPERVISED, Method.DPO, Method.REINFORCEMENT)
BYTES_PER_STORED_WEIGHT = 2
"""Hubs store models in bfloat16."""
MAX_CARD_BYTES = 65_536
_LICENCE = re.compile(r"^license(?:_name)?: *[\"']?([\w .-]{2,60})", re.MULTILINE)


def local_bases(models_dir: Path, prices: PriceTable, *, default: str) -> list[TrainableBase]:
    """The base models of this machine, then those that it can fetch; each part from small to large.

    Args:
        models_dir: Folder of installed base models.
        prices: What a million trained tokens cost; free unless the user says otherwise.
        default: The model that is trained if no other one is named.
    """
    installed = [_installed(name, models_dir) for name in (*installed_bases(models_dir), *downloaded_bases())]
    names = {base.name for base in installed}
    fetchable = [
        _on_this_machine(
            one.name, "downloadable", one.shape, context=one.context, licence=one.licence, is_gated=one.gated
        )
        for one in hub_models()
        if one.name not in names
    ]
    bases = [*sorted(installed, key=_size), *sorted(fetchable, key=_size)]
    priced = (_with_price(base, prices.row(base.name)) for base in bases)
    return [base.model_copy(update={"is_default": base.name == default}) for base in priced]


def _installed(name: str, models_dir: Path) -> TrainableBase:
    folder = find_installed_folder(name, models_dir)
    if folder is None:  # the default model before its first use
        row = next(one for one in hub_models() if one.name.lower().endswith(f"/{DEFAULT_BASE}"))
        base = _on_this_machine(name, "downloadable", row.shape, context=row.context, licence=DEFAULT_LICENCE)
        return base.model_copy(update={"download_bytes": PACKAGE_BYTES})
    facts = BaseFacts.of_config(read_json(folder / "config.json") or {})
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    licence = DEFAULT_LICENCE if name == DEFAULT_BASE else _licence_of(name, folder)
    base = _on_this_machine(name, "installed", facts.shape, context=facts.context, licence=licence)
    return base.model_copy(update={"download_bytes": size})


def _on_this_machine(name: str, availability: Availability, shape: ModelShape | None, **known: Any) -> TrainableBase:
    memory = estimate_memory(shape, TrainingSetup()).required if shape else None
    total = available_memory()
    return TrainableBase(
        name=name,
        provider="local",
        availability=availability,
        methods=LOCAL_METHODS,
        parameters=shape.parameters if shape else None,
        download_bytes=shape.parameters * BYTES_PER_STORED_WEIGHT if shape else None,
        memory_bytes=memory,
        fits_in_memory=None if memory is None or total is None else memory <= total,
        **known,
    )


def _licence_of(name: str, folder: Path) -> str | None:
    """The licence by the catalogue, or by the front matter of the model card."""
    known = next((one.licence for one in hub_models() if one.name == name), None)
    try:
        with (folder / "README.md").open("rb") as card:
            match = _LICENCE.search(card.read(MAX_CARD_BYTES).decode(errors="replace"))
    except OSError:
        return known
    return known or (match[1].strip() if match else None)


def hosted_bases(
    provider: str,
    target: str,
    prices: PriceTable,
    *,
    default: str,
    last_day_to_create: str | None,
    listed: Iterable[str] | None = None,
) -> Iterator[TrainableBase]:
    """The base models that are known of a provider, the cheapest first; and its own list if nothing is known.

    Args:
        provider: Name of the provider.
        target: Whose rules and prices apply.
        prices: Its prices, with the user's own.
        default: The model that is trained if no other one is named.
        last_day_to_create: Last day on which it accepts jobs, ISO 8601.
        listed: The names that it lists itself, if it was asked.
    """
    rows = {row.model: row for row in prices.rows() if row.model != "*"}
    names = list(dict.fromkeys([*rows, *(one.name for one in base_models() if target in one.shutdown)]))
    names = names or sorted(listed or ())
    own = None if listed is None else set(listed)
    for name in names:
        known = find_base(name)
        shutdown = known.shutdown.get(target) if known else None
        days = [day for day in (last_day_to_create, shutdown and (shutdown - dt.timedelta(days=1)).isoformat()) if day]
        spellings = {name, *(known.aliases if known else ())}
        base = TrainableBase(
            name=name,
            provider=provider,
            availability="hosted",
            is_default=default in spellings,
            methods=tuple(Method(method) for method in known.methods) if known else (),
            context=example_limit(name, target) if known else None,
            last_day=min(days, default=None),
            shutdown_date=shutdown.isoformat() if shutdown else None,
            is_listed=None if own is None else bool(spellings & own),
        )
        yield _with_price(base, rows.get(name))


def _with_price(base: TrainableBase, row: PriceRow | None) -> TrainableBase:
    if row is None:
        return base
    update = {
        "price_per_million": row.training,
        "currency": row.currency,
        "price_as_of": row.as_of.isoformat() if row.as_of else None,
    }
    return base.model_copy(update=update)


def _size(base: TrainableBase) -> tuple[int, str]:
    return (base.parameters or 2**62, base.name)
