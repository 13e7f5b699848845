"""Mirror a share of the chats with one model to another, in threads of its own, and store how the answers compare."""

from __future__ import annotations

import logging
import threading
from collections import defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ftpipe.canonical_json import canonical_json
from ftpipe.grading.graders import Grader, parse_grader
from ftpipe.server.cancellation import ActiveRequests, RequestCancelledError
from ftpipe.server.clock import now
from ftpipe.server.protocol import ApiRequest
from ftpipe.server.routed_chats import RoutedChats
from ftpipe.server.settings import ShadowPair, ShadowSettings
from ftpipe.server.shadow.comparison import (
    ModelReply,
    answer_digest,
    ask,
    first_message,
    score,
    tokens_of,
)
from ftpipe.server.shadow.low_priority import CallerCount, LowPriorityToken
from ftpipe.server.shadow.sampling import digest, highest_tokens, is_sampled, is_text, mirrored_fields, with_token_limit
from ftpipe.server.storage import ShadowResultRow, Store
from ftpipe.server.storage.shadow_results import ShadowCounts

log = logging.getLogger("ftpipe.server")

MAX_WAITING = 16
"""Mirrored chats that wait; more are dropped."""
MAX_RUNNING = 2
"""Mirrored chats that are answered at the same time."""
MAX_CHAT_BYTES = 1024 * 1024
"""A larger chat is dropped: the waiting ones are in memory."""


@dataclass(frozen=True, slots=True)
class MirroredChat:
    """A chat of the share, with the answer that the caller got."""

    owner: str
    pair: ShadowPair
    request_digest: str
    fields: Mapping[str, Any]
    message: Mapping[str, Any]
    seconds: float
    tokens: Mapping[str, int]


class ShadowMirror:
    """Takes chats that were answered, and answers a share of them by another model.

    Args:
        settings: What is mirrored and stored.
        store: The server's database.
        key: The server's secret for digests, which also decides which chats are in the share.
        models: Answer mirrored chats.
        callers: What mirrored chats wait for.
        active: Cancels mirrored chats when the server stops.
    """

    def __init__(
        self,
        settings: ShadowSettings,
        store: Store,
        key: str,
        models: RoutedChats,
        callers: CallerCount,
        active: ActiveRequests,
    ) -> None:
        self._settings = settings
        self._store = store
        self._key = key
        self._models = models
        self._callers = callers
        self._active = active
        self._grader: Grader | None = parse_grader(settings.grader) if settings.grader is not None else None
        self._condition = threading.Condition()
        self._waiting: deque[MirroredChat] = deque()
        self._running = 0
        self._is_stopping = False
        self._counts: defaultdict[tuple[str, ShadowPair], ShadowCounts] = defaultdict(ShadowCounts)
        self._spent = 0.0
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Start to answer mirrored chats."""
        with self._store.read() as tx:
            self._spent = tx.shadow.total_cost()
        self._threads = [threading.Thread(target=self._run, name="shadow", daemon=True) for _ in range(MAX_RUNNING)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Drop what waits, and store the counts; what runs must have been cancelled."""
        with self._condition:
            self._is_stopping = True
            while self._waiting:
                chat = self._waiting.popleft()
                self._counts[chat.owner, chat.pair] += ShadowCounts(dropped=1)
            self._condition.notify_all()
        for thread in self._threads:
            thread.join()
        self.store_counts()

    def store_counts(self) -> None:
        """Store what was counted since the last comparison."""
        for owner, pair in list(self._counts):
            self._store_counts(owner, pair)

    def wait_until_idle(self, timeout: float) -> bool:
        """Wait until every mirrored chat has been answered.

        Returns:
            ``False`` if one has not after ``timeout`` seconds.
        """
        with self._condition:
            return self._condition.wait_for(lambda: not self._waiting and not self._running, timeout)

    def offer(self, request: ApiRequest, answer: Mapping[str, Any], seconds: float) -> None:
        """Mirror a chat if it is in the share; returns at once, and never fails.

        Args:
            request: The caller's chat.
            answer: The completion that the caller gets.
            seconds: How long it was computed.
        """
        try:
            for pair in self._settings.pairs:
                if pair.old == (request.alias or request.body.get("model")):
                    self._offer(request, pair, answer, seconds)
        except Exception:  # the caller must get the answer, whatever is wrong here
            log.exception("a chat could not be mirrored")

    def _offer(self, request: ApiRequest, pair: ShadowPair, answer: Mapping[str, Any], seconds: float) -> None:
        fields = mirrored_fields(request.body)
        content = canonical_json(fields)
        request_digest = digest(self._key, content)
        counts = ShadowCounts(chats=1)
        tokens = tokens_of(answer) if request.body.get("n") in (None, 1) else {}
        chat = MirroredChat(request.owner, pair, request_digest, fields, first_message(answer), seconds, tokens)
        with self._condition:
            if is_sampled(request_digest, self._settings.share):
                if self._is_stopping or len(self._waiting) >= MAX_WAITING or len(content) > MAX_CHAT_BYTES:
                    counts += ShadowCounts(dropped=1)
                else:
                    self._waiting.append(chat)
                    self._condition.notify_all()
            self._counts[request.owner, pair] += counts

    def _run(self) -> None:
        """Answer mirrored chats, one after the other, until the server stops."""
        while (chat := self._next()) is not None:
            counts = ShadowCounts()
            try:
                with self._active.working_thread():
                    counts = self._compare(chat)
            except RequestCancelledError:
                log.debug("the server stops while a mirrored chat is answered")  # its row stays as it was sent
            except Exception:  # one chat must not end the thread
                log.exception("a mirrored chat could not be compared")
            finally:
                with self._condition:
                    self._counts[chat.owner, chat.pair] += counts
                    self._running -= 1
                    self._condition.notify_all()

    def _next(self) -> MirroredChat | None:
        with self._condition:
            self._condition.wait_for(lambda: self._waiting or self._is_stopping)
            if self._is_stopping:
                return None
            self._running += 1
            return self._waiting.popleft()

    def _compare(self, chat: MirroredChat) -> ShadowCounts:
        """Answer a chat, and store the comparison; what it may cost is stored before it is sent."""
        if self._active.is_stopping:
            return ShadowCounts(dropped=1)
        price = self._settings.price
        is_unbounded = price is not None and not is_text(chat.fields)
        if is_unbounded or (price is None and self._models.is_remote(chat.owner, chat.pair.new)):
            return ShadowCounts(unpaid=1)
        fields = chat.fields if price is None else with_token_limit(chat.fields)
        highest = 0.0 if price is None else price.cost(*highest_tokens(fields))
        if not self._reserve(highest):
            return ShadowCounts(unpaid=1)
        pair_id = self._store_counts(chat.owner, chat.pair)
        row = ShadowResultRow(
            pair_id=pair_id,
            created_at=now(),
            status="sent",
            request_digest=chat.request_digest,
            old_digest=answer_digest(self._key, chat.message),
            old_seconds=chat.seconds,
            old_tokens=dict(chat.tokens),
            new_cost=highest,
        )
        with self._store.write() as tx:
            result_id = tx.shadow.add(row)
        token = LowPriorityToken(self._callers)
        self._active.add(token)
        reply = ask(self._models, chat.owner, {**fields, "model": chat.pair.new}, token)
        cost = reply.cost(price, highest)
        with self._condition:
            self._spent += cost - highest  # paid, also if it is more than the limit
        values = self._values(chat, reply, row.old_digest) | {"new_cost": cost}
        if self._settings.repeats_old and not self._models.is_remote(chat.owner, chat.pair.old):
            repeat = ask(self._models, chat.owner, {**chat.fields, "model": chat.pair.old}, token)
            if repeat.error is None:
                agrees = answer_digest(self._key, repeat.message) == row.old_digest
                values |= {"repeat_agrees": agrees, "repeat_seconds": repeat.seconds}
        with self._store.write() as tx:
            tx.shadow.update(result_id, **values)
        return ShadowCounts()

    def _values(self, chat: MirroredChat, reply: ModelReply, old_digest: str) -> dict[str, Any]:
        """The columns of a comparison."""
        new_digest = answer_digest(self._key, reply.message) if reply.error is None else None
        values: dict[str, Any] = {
            "status": "answered" if reply.error is None else "failed",
            "new_digest": new_digest,
            "new_seconds": reply.seconds,
            "new_tokens": dict(reply.tokens),
            "error": reply.error,
            "agrees": new_digest == old_digest,
        }
        if self._grader is not None:
            values["old_score"] = score(self._grader, chat.fields, chat.message)
            values["new_score"] = score(self._grader, chat.fields, reply.message) if reply.error is None else 0.0
        if self._settings.keeps_answers:
            values["texts"] = {"chat": chat.fields, "old": chat.message, "new": reply.message}
        return values

    def _reserve(self, cost: float) -> bool:
        """Add to what the new models cost; ``False``, and nothing is added, if that were more than the limit."""
        limit = self._settings.max_cost
        with self._condition:
            if limit is not None and cost > 0 and self._spent + cost > limit:
                return False
            self._spent += cost
            return True

    def _store_counts(self, owner: str, pair: ShadowPair) -> int:
        """Store what was counted since the last time, and return the id of the pair's row."""
        with self._condition:
            counts = self._counts.pop((owner, pair), ShadowCounts())
        with self._store.write() as tx:
            return tx.shadow.add_counts(owner, pair.old, pair.new, self._settings.share, counts)
