"""Base models that can be trained as a table."""

from __future__ import annotations

from collections.abc import Sequence

from ftpipe.formatting import Styler, fit_table, format_bytes, format_money, sanitize_line, unstyled
from ftpipe.modeling.memory import SAMPLE_RANK, SAMPLE_ROWS, SAMPLE_TOKENS
from ftpipe.records.trainable_base import TrainableBase

MEMORY_NOTE = (
    f"memory: estimated for {SAMPLE_ROWS} rows of {SAMPLE_TOKENS} tokens in float32, rank {SAMPLE_RANK} on q_proj and "
    "v_proj; longer rows and more layers need more; !: more than this machine has"
)
UNKNOWN = "–"


def local_table(bases: Sequence[TrainableBase], style: Styler = unstyled, *, width: int | None = None) -> list[str]:
    """The base models of this machine, and those that it can fetch."""
    rows = [("base", "size", "files", "licence", "price", "context", "memory", "")]
    rows += [
        (
            sanitize_line(base.name, 80),
            parameters_text(base.parameters),
            format_bytes(base.download_bytes) if base.download_bytes else UNKNOWN,
            sanitize_line(base.licence or UNKNOWN, 40),
            price_text(base),
            f"{base.context:,}" if base.context else UNKNOWN,
            memory_text(base),
            availability_text(base),
        )
        for base in bases
    ]
    return _styled(bases, fit_table(rows, width=width, right=(1, 2, 5, 6), drop=(4, 5, 3, 1)), style)


def hosted_table(bases: Sequence[TrainableBase], style: Styler = unstyled, *, width: int | None = None) -> list[str]:
    """The base models of a provider."""
    asked = any(base.is_listed is not None for base in bases)
    rows = [("base", "methods", "per 1M tokens", "as of", "context", "last day", "shut down", "")]
    rows += [
        (
            sanitize_line(base.name, 80),
            ", ".join(method.value for method in base.methods) or UNKNOWN,
            price_text(base),
            base.price_as_of or UNKNOWN,
            f"{base.context:,}" if base.context else UNKNOWN,
            base.last_day or UNKNOWN,
            base.shutdown_date or UNKNOWN,
            ", ".join(
                [*["default"] * base.is_default, *(["listed" if base.is_listed else "not listed"] if asked else [])]
            ),
        )
        for base in bases
    ]
    return _styled(bases, fit_table(rows, width=width, right=(2, 4), drop=(3, 6, 4, 1)), style)


def _styled(bases: Sequence[TrainableBase], lines: Sequence[str], style: Styler) -> list[str]:
    first, *rest = lines
    defaults = {sanitize_line(base.name, 80) for base in bases if base.is_default}
    return [style("bold", first), *(style("ok", line) if line.split("  ")[0] in defaults else line for line in rest)]


def parameters_text(parameters: int | None) -> str:
    """A number of parameters as model names have it: ``135M``, ``1.7B``."""
    if parameters is None:
        return UNKNOWN
    return f"{parameters / 1e9:.1f}B" if parameters >= 999_500_000 else f"{parameters / 1e6:.0f}M"


def price_text(base: TrainableBase) -> str:
    """What a million trained tokens cost."""
    if base.price_per_million is None:
        return UNKNOWN
    return format_money(base.price_per_million, base.currency) if base.price_per_million else "free"


def memory_text(base: TrainableBase) -> str:
    """The memory that training needs, marked if this machine has less."""
    if base.memory_bytes is None:
        return UNKNOWN
    return f"{format_bytes(base.memory_bytes)}{' !' if base.fits_in_memory is False else ''}"


def availability_text(base: TrainableBase) -> str:
    """Whether it is here, and what has to be done first."""
    words = ["default"] if base.is_default else []
    if base.availability == "installed":
        words.append("here")
    else:
        words.append("licence to accept" if base.is_gated else "fetched once")
    return ", ".join(words)
