"""Suggests the name that a mistyped one most likely stands for."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from functools import lru_cache

MAX_LISTED_NAMES = 40
MIN_SIMILARITY = 0.6
"""Ratio of ``difflib`` from 0 to 1 below which a name is not suggested."""


def nearest_name(name: str, known: Iterable[str], *, min_similarity: float = MIN_SIMILARITY) -> str:
    """The known name that is most similar; empty if none is similar enough."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1, cutoff=min_similarity)), "")


def nearest_names(name: str, known: Iterable[str], *, count: int = 3, min_similarity: float = 0.5) -> list[str]:
    """The known names that are most similar, the best first; upper and lower case are the same."""
    by_lower = {one.lower(): one for one in known}
    close = difflib.get_close_matches(name.lower()[:200], list(by_lower), n=count, cutoff=min_similarity)
    return [by_lower[one] for one in close]


def nearest_file_name(name: str, known: Iterable[str]) -> str:
    """The known file name that is most similar without the extensions that both have; empty if none is."""
    similar = [one for one in known if nearest_name(*_without_shared_extensions(name, one))]
    return nearest_name(name, similar)


def _without_shared_extensions(name: str, other: str) -> tuple[str, list[str]]:
    names, others = name.split("."), other.split(".")
    while len(names) > 1 and len(others) > 1 and names[-1] == others[-1]:
        names, others = names[:-1], others[:-1]
    return ".".join(names), [".".join(others)]


def join_or(names: Sequence[str]) -> str:
    """Names as a choice: ``a, b or c``."""
    return " or ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def nearest_dotted_name(name: str, known: Iterable[str], *, min_similarity: float = 0.7) -> str:
    """The same for dotted names, compared also by their last part: ``epochs`` finds ``hyperparameters.n_epochs``.

    Of a dotted name only the last part counts: all names of a table begin alike.
    """
    names = list(known)
    if "." not in name and (nearest := nearest_name(name, names, min_similarity=min_similarity)):
        return nearest
    by_last_part = {dotted.rsplit(".", 1)[-1]: dotted for dotted in names}
    nearest = nearest_name(name.rsplit(".", 1)[-1], by_last_part, min_similarity=min_similarity)
    return by_last_part.get(nearest, "")


def nearest_option(option: str, known: Iterable[str]) -> str:
    """The known option that a mistyped one most likely stands for; empty if none is similar enough.

    An abbreviation stands for the shortest option that begins with it, and a longer name for the option that it ends
    with: ``num-epochs`` for ``epochs``. Dashes at the start do not count as similar.
    """
    names = {name.lstrip("-"): name for name in known if name.startswith("--")}
    written = option.lstrip("-").replace("_", "-").lower()
    longer = [name for name in names if written and name.startswith(written)]
    shorter = [name for name in names if written.endswith(f"-{name}")]
    nearest = min(longer, key=len, default="") or max(shorter, key=len, default="") or nearest_name(written, names)
    return names.get(nearest, "")


def did_you_mean(name: str, known: Iterable[str], *, min_similarity: float = 0.5) -> str:
    """A hint with the most similar name, or with all of them if none is similar."""
    names = sorted(known)
    nearest = nearest_name(name, names, min_similarity=min_similarity)
    return f"Did you mean {nearest!r}?" if nearest else f"Known: {', '.join(names[:MAX_LISTED_NAMES])}"


@lru_cache(maxsize=4096)
def did_you_mean_or_remove(name: str, known: frozenset[str]) -> str:
    """A hint for a key that must not be there; cached, because the same keys recur record after record."""
    nearest = nearest_name(name, sorted(known), min_similarity=0.5)
    return f"Did you mean {nearest!r}?" if nearest else f"Remove it. {did_you_mean(name, known)}."
