"""What the errors of a database mean for the user, and what to do about each."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import sqlalchemy as sa
from sqlalchemy import exc

from ftpipe.errors import LocalStateError


@contextlib.contextmanager
def translated_errors(engine: sa.Engine) -> Iterator[None]:
    """Turn what a database can raise into a ``LocalStateError`` that says what to do."""
    try:
        yield
    except exc.DBAPIError as error:
        raise explain(engine, error) from error


def explain(engine: sa.Engine, error: exc.DBAPIError) -> LocalStateError:
    """What a database error means for the user."""
    said, place = " ".join(str(error.orig).split()), str(engine.url.database)
    if engine.dialect.name != "sqlite":
        return LocalStateError(
            f"the registry's database does not answer as it should: {said}",
            "is PostgreSQL running, and is the URL right? `ftpipe resume` goes on from the last committed step",
        )
    if "full" in said or "disk I/O" in said:
        return LocalStateError(
            f"cannot write to {place}: {said}", "free some disk space; what was committed is kept, then `ftpipe resume`"
        )
    if "readonly" in said or "unable to open" in said:
        return LocalStateError(
            f"cannot write to {place}: {said}",
            "check the folder's permissions, or name another place with FTPIPE_REGISTRY",
        )
    if "locked" in said or "busy" in said:
        return LocalStateError(f"{place} is held by another program: {said}", "close it, then `ftpipe resume`")
    return damaged(engine, said)


def damaged(engine: sa.Engine, said: str) -> LocalStateError:
    """The error for a database that is not whole."""
    return LocalStateError(
        f"the registry {engine.url.database} is damaged: {said}",
        "`ftpipe doctor --repair` moves it aside and rebuilds it from what the endpoint lists",
    )
