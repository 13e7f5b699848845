"""The answers page: one question to one to four models at once, with probabilities, and opinions that become rows."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from ftpipe.errors import FtpipeError, UsageError
from ftpipe.modeling.base_models import downloaded_bases, installed_bases
from ftpipe.paths import models_dir
from ftpipe.pipeline.chat_target import shutdown_message, trained_system
from ftpipe.records.evaluation import TokenLogprob
from ftpipe.ui.answers.conversations import MAX_MODELS, Answer, ChatModel, Conversation, Turn
from ftpipe.ui.answers.feedback import Feedback
from ftpipe.ui.answers.sampling import ChatFields
from ftpipe.ui.project import Project
from ftpipe.ui.rendering import Page, form_of, form_text, project_of, render, url_of
from ftpipe.ui.streams import Event, Streams

MAX_LISTED_MODELS = 300
MAX_MESSAGE_CHARACTERS = 200_000
MAX_SHOWN_TOKENS = 2000
"""Tokens of an answer that are shown one by one."""
STREAM_SECONDS = 0.1
LETTERS = "ABCD"
_STEPS = (0.95, 0.75, 0.5, 0.2)
"""Probabilities above which a token is in the first, second, … of five shades."""


class ShownToken(NamedTuple):
    """A token of an answer."""

    text: str
    percent: str
    shade: int
    """0 for a certain one to 4 for an improbable one."""
    alternatives: str


def _show(request: Request) -> Response:
    query = request.query_params
    conversation = project_of(request).conversations.get(query.get("c", ""))
    names = [name.strip()[:300] for name in query.getlist("model") if name.strip()][:MAX_MODELS]
    if conversation is not None and [model.name for model in conversation.models] != names:
        conversation = None
    return _render(request, names, conversation)


def _render(
    request: Request,
    names: Sequence[str],
    conversation: Conversation | None,
    *,
    fields: ChatFields | None = None,
    message: str = "",
    problem: FtpipeError | None = None,
    status: int = 200,
) -> Response:
    project = project_of(request)
    models = [_find_model(project, name) for name in names]
    if fields is None:
        default = next((model.trained_with for model in models if model.trained_with), "")
        fields = conversation.turns[-1].fields if conversation else ChatFields({"system": default})
    files = project.feedback
    opinions = files.opinions() if conversation else {}
    turns = [_turn_values(conversation, turn, opinions) for turn in conversation.turns] if conversation else []
    return render(
        request,
        "answers/answers.html.j2",
        http_status=status,
        names=list(names),
        models=models,
        choices=_choices(project),
        conversation=conversation,
        turns=turns,
        fields=fields,
        message=message,
        problem=problem,
        letters=LETTERS,
        max_models=MAX_MODELS,
        row_files=[
            (path, project.datasets.files.id_of(path)) for path in (files.answers, files.preferences) if path.is_file()
        ],
    )


def _ask(request: Request) -> Response:
    """Send a question to the models; the page that follows shows the answers as they come."""
    project, form = project_of(request), form_of(request)
    names = [name.strip()[:300] for name in form.getlist("model") if isinstance(name, str) and name.strip()]
    fields = ChatFields.of(form)
    text = form_text(request, "message", MAX_MESSAGE_CHARACTERS)
    conversation_id = form_text(request, "c", 40)
    try:
        if not names:
            raise UsageError("no model was chosen", "choose one")
        models = [_find_model(project, name) for name in names]
        conversation = project.conversations.ask(models, fields, text, conversation_id=conversation_id)
    except UsageError as exc:
        known = project.conversations.get(conversation_id)
        return _render(request, names[:MAX_MODELS], known, fields=fields, message=text, problem=exc, status=400)
    target = url_of(request, "/answers", model=names, c=conversation.id)
    return RedirectResponse(f"{target}#turn-{len(conversation.turns) - 1}", 303)


def _stop(request: Request) -> Response:
    project = project_of(request)
    conversation = _conversation(request)
    project.conversations.stop(conversation)
    project.conversations.wait(conversation.turns[-1], 2.0)
    names = [model.name for model in conversation.models]
    return RedirectResponse(url_of(request, "/answers", model=names, c=conversation.id), 303)


def _stream(request: Request) -> Response:
    """The answers of a turn as they come, all in one stream."""
    streams: Streams = request.app.state.streams
    turn = _turn(request, _conversation(request))
    return streams.response(request, TurnChanges(turn).events, seconds=STREAM_SECONDS)


class TurnChanges:
    """What has come of the answers of a turn since the page was told last."""

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        self._sent = [0] * len(turn.answers)
        self._done = [False] * len(turn.answers)

    def events(self) -> Iterator[Event]:
        """The events since the last call."""
        for column, answer in enumerate(self._turn.answers):
            is_done, text = answer.is_done, answer.text
            if len(text) > self._sent[column]:
                yield Event.of_json("piece", {"column": column, "text": text[self._sent[column] :]})
                self._sent[column] = len(text)
            if is_done and not self._done[column]:
                self._done[column] = True
                yield Event.of_json("answer", {"column": column})
        if all(self._done):
            yield Event("", "done", is_last=True)


def _answer(request: Request) -> Response:
    """One answer that is complete, with its probabilities."""
    conversation = _conversation(request)
    turn = _turn(request, conversation)
    values = _turn_values(conversation, turn, project_of(request).feedback.opinions())
    column = request.path_params["column"]
    if column >= len(turn.answers):
        raise UsageError("there is no such answer", "load the page again")
    return render(request, "answers/answer.html.j2", conversation=conversation, turn=turn, **values["columns"][column])


def _give_feedback(request: Request) -> Response:
    """Store an opinion about an answer."""
    project = project_of(request)
    conversation = _conversation(request)
    turn = _turn(request, conversation)
    column = request.path_params["column"]
    if column >= len(turn.answers) or not turn.answers[column].is_done:
        raise UsageError("the answer is not complete", "wait for it")
    opinion = form_text(request, "opinion", 20)
    if opinion not in ("good", "bad", "corrected", "none"):
        raise UsageError("there is no such opinion", "choose one of the buttons")
    answer = turn.answers[column]
    counts = project.feedback.save(
        Feedback.model_validate(
            {
                "id": conversation.answer_id(turn, column),
                "question": conversation.question_id(turn),
                "created_at": 0,
                "model": answer.model.model,
                "provider": answer.model.provider,
                "messages": conversation.messages(column, turn.number),
                "tools": turn.fields.tools,
                "answer": answer.message,
                "opinion": opinion,
                "correction": form_text(request, "correction", MAX_MESSAGE_CHARACTERS),
            }
        )
    )
    values = _turn_values(conversation, turn, project.feedback.opinions())["columns"][column]
    if "hx-request" not in request.headers:
        names = [model.name for model in conversation.models]
        return RedirectResponse(url_of(request, "/answers", model=names, c=conversation.id), 303)
    return render(
        request, "answers/feedback.html.j2", conversation=conversation, turn=turn, saved=counts, **values
    )  # fmt: skip


def _conversation(request: Request) -> Conversation:
    conversation = project_of(request).conversations.get(request.path_params["conversation_id"])
    if conversation is None:
        raise UsageError("this conversation is not remembered any more", "begin a new one")
    return conversation


def _turn(request: Request, conversation: Conversation) -> Turn:
    number: int = request.path_params["turn"]
    if number >= len(conversation.turns):
        raise UsageError("there is no such question in this conversation", "load the page again")
    return conversation.turns[number]


def _turn_values(conversation: Conversation, turn: Turn, opinions: Mapping[str, Feedback]) -> dict[str, Any]:
    first = turn.answers[0]
    columns = []
    for column, answer in enumerate(turn.answers):
        is_compared = column > 0 and first.is_done and answer.is_done and not answer.error and not first.error
        columns.append(
            {
                "column": column,
                "letter": LETTERS[column],
                "answer": answer,
                "tokens": _shown_tokens(answer),
                "is_same": answer.text == first.text if is_compared else None,
                "differences": _differences(first.text, answer.text) if is_compared else [],
                "feedback": opinions.get(conversation.answer_id(turn, column)),
            }
        )
    return {"turn": turn, "columns": columns}


def _shown_tokens(answer: Answer) -> list[ShownToken]:
    """The tokens of a complete answer, if they are its text."""
    if not answer.is_done or "".join(token.token for token in answer.tokens) != answer.text:
        return []
    return [_shown_token(token) for token in answer.tokens[:MAX_SHOWN_TOKENS]]


def _shown_token(token: TokenLogprob) -> ShownToken:
    probability = math.exp(min(0.0, token.logprob))
    shade = sum(probability < step for step in _STEPS)
    others = sorted(token.alternatives.items(), key=lambda item: -item[1])
    texts = [f"{text!r} {math.exp(min(0.0, value)):.1%}" for text, value in others]
    return ShownToken(token.token, f"{probability:.1%}", shade, ", ".join(texts))


def _differences(first: str, other: str) -> list[tuple[str, bool]]:
    """The words of the second text, each with whether it is another one than in the first."""
    before, after = (re.findall(r"\s+|\S+", text)[:4000] for text in (first, other))
    parts: list[tuple[str, bool]] = []
    for tag, _, _, start, end in difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if text := "".join(after[start:end]):
            parts.append((text, tag != "equal"))
    return parts


def _find_model(project: Project, name: str) -> ChatModel:
    """What answers for a name: a model or checkpoint of the registry, or a model of the configured provider."""
    try:
        known = project.registry.models.get(name)
    except UsageError:
        return ChatModel(name, name, project.default_provider)
    is_checkpoint = name in {checkpoint.model for checkpoint in known.checkpoints}
    return ChatModel(
        name=name,
        model=name if is_checkpoint else known.id,
        provider=known.provider,
        trained_with=trained_system(project.registry, known),
        notice=shutdown_message(known),
    )


def _choices(project: Project) -> list[tuple[str, list[tuple[str, str]]]]:
    """Groups of models that can be chosen: name and label of each."""
    models = project.registry.models.recent(MAX_LISTED_MODELS)
    tuned, bases = [], []
    for model in models:
        label = f"{model.aliases[0]} → {model.id}" if model.aliases else model.id
        tuned.append((model.aliases[0] if model.aliases else model.id, label))
        if model.provider == project.default_provider:
            bases.append((model.base, model.base))
    bases += [(name, name) for name in (*installed_bases(models_dir()), *downloaded_bases())]
    return [("Tuned models", tuned), ("Base models", list(dict.fromkeys(bases)))]


PAGE = Page(
    title="Answers",
    path="/answers",
    routes=(
        Route("/answers", _show, methods=["GET"]),
        Route("/answers", _ask, methods=["POST"]),
        Route("/answers/{conversation_id:str}/stop", _stop, methods=["POST"]),
        Route("/answers/{conversation_id:str}/{turn:int}/stream", _stream, methods=["GET"]),
        Route("/answers/{conversation_id:str}/{turn:int}/{column:int}", _answer, methods=["GET"]),
        Route("/answers/{conversation_id:str}/{turn:int}/{column:int}", _give_feedback, methods=["POST"]),
    ),
)
