"""Options of ``ftpipe serve`` for shadow traffic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ftpipe.cli import options as shared
from ftpipe.errors import UsageError

if TYPE_CHECKING:
    from ftpipe.server.settings import ShadowSettings

MAX_NAME_CHARACTERS = 1024

shadow_options = shared.combine_options(
    click.option(
        "--shadow",
        "shadow_pairs",
        multiple=True,
        metavar="OLD=NEW",
        help="Also answer a share of the chats with OLD by NEW, and compare; callers get OLD's answers. Repeatable.",
    ),
    click.option(
        "--share",
        type=shared.NumberRange(0, 1, min_open=True),
        metavar="X",
        help="Share of these chats, chosen by their content.  [default: 0.1]",
    ),
    click.option(
        "--shadow-repeat",
        is_flag=True,
        help="Also ask OLD a second time: shows how often it agrees with itself.",
    ),
    click.option(
        "--shadow-grader", type=shared.FILE, metavar="FILE", help="OpenAI grader (JSON) that scores both answers."
    ),
    click.option(
        "--shadow-answers", is_flag=True, help="Store mirrored chats and both answers.  [default: digests of them]"
    ),
    click.option(
        "--shadow-price",
        metavar="PRICE",
        help="Price of NEW: INPUT,OUTPUT per million tokens.  [default: free, on this machine]",
    ),
    click.option(
        "--shadow-max-cost",
        type=shared.NumberRange(0, min_open=True),
        metavar="X",
        help="What all answers of NEW may cost together; needs --shadow-price.",
    ),
)


@dataclass(frozen=True, kw_only=True)
class ShadowOptions:
    """Options of shadow traffic."""

    shadow_pairs: tuple[str, ...] = ()
    share: float | None = None
    shadow_repeat: bool = False
    shadow_grader: Path | None = None
    shadow_answers: bool = False
    shadow_price: str | None = None
    shadow_max_cost: float | None = None


def shadow_settings(options: ShadowOptions) -> ShadowSettings | None:
    """The settings of shadow traffic; ``None`` without ``--shadow``.

    Raises:
        UsageError: A pair, the grader or the price cannot be used, or an option needs another one.
    """
    from ftpipe.catalog.inference_prices import read_price
    from ftpipe.server.settings import ShadowPair, ShadowSettings

    if not options.shadow_pairs:
        for field in fields(ShadowOptions):
            if getattr(options, field.name) != field.default:
                raise UsageError(f"--{field.name.replace('_', '-')} needs --shadow", "add --shadow OLD=NEW")
        return None
    if (options.shadow_max_cost is None) != (options.shadow_price is None):
        raise UsageError("--shadow-price and --shadow-max-cost need each other", "give both, or none if NEW is free")
    today = datetime.now(UTC).date().isoformat()
    return ShadowSettings(
        pairs=tuple(dict.fromkeys(ShadowPair(*split_pair(text)) for text in options.shadow_pairs)),
        share=options.share or 0.1,
        repeats_old=options.shadow_repeat,
        keeps_answers=options.shadow_answers,
        grader=read_grader(options.shadow_grader),
        price=read_price(options.shadow_price, "NEW", today=today) if options.shadow_price is not None else None,
        max_cost=options.shadow_max_cost,
    )


def split_pair(text: str) -> tuple[str, str]:
    """The two models of ``OLD=NEW``.

    Raises:
        UsageError: There are not two different names.
    """
    old, _, new = text.partition("=")
    if not old or not new or old == new or max(len(old), len(new)) > MAX_NAME_CHARACTERS:
        example = "--shadow ft:gpt-4o-mini-2024-07-18:acme::abc=smollm2-135m-instruct"
        raise UsageError(f"{text[:100]!r} does not name two models as OLD=NEW", f"for example {example}")
    return old, new


def read_grader(path: Path | None) -> Mapping[str, Any] | None:
    """A grader from a file, after a check that the server can run it.

    Raises:
        UsageError: It is not JSON, or not a grader that ftpipe runs.
    """
    from ftpipe.cli.commands.evaluate import read_object
    from ftpipe.grading.graders import parse_grader

    grader = read_object(path, "grader")
    if grader is not None:
        parse_grader(grader)
    return grader
