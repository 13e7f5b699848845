"""What an endpoint's dates mean on a day: whether it still accepts jobs, and how long models will answer."""

from __future__ import annotations

import datetime as dt

from ftpipe.formatting import plural
from ftpipe.providers.profiles import Profile


def days_left(day: str | None, today: dt.date) -> int | None:
    """Days from ``today`` to an ISO date, negative if it has passed; ``None`` if there is none or it is not a date."""
    try:
        return (dt.date.fromisoformat(day) - today).days if day else None
    except ValueError:
        return None


def is_closed(profile: Profile, today: dt.date) -> bool:
    """Whether the endpoint accepts no new jobs any more."""
    left = days_left(profile.last_day_to_create, today)
    return left is not None and left < 0


def new_jobs_text(last_day: str | None, today: dt.date) -> str:
    """A clause about an endpoint: ``accepts new jobs until 2027-01-06, for 17 more days``; empty without a last day."""
    left = days_left(last_day, today)
    if left is None:
        return ""
    if left < 0:
        return f"has accepted no new jobs since {last_day}"
    if left == 0:
        return f"accepts new jobs today for the last time ({last_day})"
    return f"accepts new jobs until {last_day}, for {plural(left, 'more day')}"


def shutdown_text(day: str, today: dt.date) -> str:
    """A predicate about a model: ``will be shut down on 2027-01-14, in 25 days``; on the days before and after, too."""
    left = days_left(day, today)
    if left is None:
        return f"will be shut down on {day}"
    if left < 0:
        return f"was shut down on {day}"
    if left == 0:
        return f"is shut down today ({day})"
    return f"will be shut down tomorrow ({day})" if left == 1 else f"will be shut down on {day}, in {left} days"


def models_text(profile: Profile, today: dt.date) -> str:
    """A clause about the models that were tuned there: whether they still answer."""
    day = profile.models_shutdown_date
    left = days_left(day, today)
    if left is None:
        return "tuned models still answer"
    if left < 0:
        return f"tuned models were shut down on {day}"
    if left == 0:
        return f"tuned models are shut down today ({day})"
    return f"tuned models answer until {day}, for {plural(left, 'more day')}"
