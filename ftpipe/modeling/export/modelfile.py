"""Write Ollama's ``Modelfile`` for a GGUF file: the chat template in Ollama's language, and what ends an answer.

Ollama does not run the Jinja template in the file. Its own templates are Go templates, and a model without one gets the
bare text of the last message. So the texts around each role's messages are read off the Jinja template, by rendering a
conversation. A template that is more than such texts is refused.
Source: https://github.com/ollama/ollama/blob/main/docs/modelfile.md and template/template.go, read 2026-11-28.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from ftpipe.modeling.chat_messages import ChatTemplateError, Message, text_of
from ftpipe.modeling.chat_template import ChatTemplate, Conversation

MODELFILE = "Modelfile"
_SYSTEM, _USER, _ANSWER, _NEXT = "Xsystem1X", "Xuser1X", "Xanswer1X", "Xuser2X"
"""Contents of a conversation whose rendering is cut at them."""
_MODELFILE = re.compile(
    r'FROM \./(?P<file>\S+)\n\nTEMPLATE """\{\{ if (?:not \.System|true) \}\}(?P<no_system>.*?)\{\{ end \}\}'
    r"\{\{ range \.Messages \}\}(?P<roles>.*)\{\{ end \}\}\{\{ end \}\}(?P<generation>.*?)"
    r'"""\n\n(?P<parameters>(PARAMETER stop "[^"\n]*"\n)*)',
    re.DOTALL,
)
_ROLE = re.compile(
    r'\{\{ (?:else )?if eq \.Role "(?P<role>\w+)" \}\}(?P<before>.*?)\{\{ \.Content \}\}'
    r"(?P<after>.*?)(?=\{\{ else if|\Z)",
    re.DOTALL,
)


@dataclass(frozen=True)
class TurnTexts:
    """The texts of a chat template.

    Attributes:
        no_system: Before the first message if the conversation has no system message.
        roles: Role → texts before and after a message.
        generation: After the last message, before the answer.
    """

    no_system: str
    roles: dict[str, tuple[str, str]]
    generation: str

    def render(self, messages: Sequence[Message]) -> str:
        """A conversation as Ollama writes it."""
        has_system = "system" in self.roles and any(message.get("role") == "system" for message in messages)
        turns = [
            f"{before}{text_of(message)}{after}"
            for message in messages
            for before, after in [self.roles.get(str(message.get("role")), ("", ""))]
        ]
        return "".join(["" if has_system else self.no_system, *turns, self.generation])


def read_turn_texts(template: ChatTemplate, *, start: str) -> TurnTexts | None:
    """The texts of a chat template; ``None`` if it does more than to put texts around messages.

    Args:
        template: The chat template.
        start: What llama.cpp writes before every prompt; it is removed from the texts.
    """
    user, answer, following = _message("user", _USER), _message("assistant", _ANSWER), _message("user", _NEXT)
    try:
        rendered = _render(template, [user, answer, following], generation=True)
        before_user, between, answer_to_user, after_next = _cut(rendered, [_USER, _ANSWER, _NEXT])
        after_user = _cut(_render(template, [user]), [_USER])[1]
        after_answer = _cut(_render(template, [user, answer]), [_USER, _ANSWER])[2]
        user_prefix = _without(answer_to_user, start=after_answer)
        roles = {
            "user": (user_prefix, after_user),
            "assistant": (_without(between, start=after_user), after_answer),
        }
        no_system = _without(before_user, end=user_prefix)
        generation = _without(after_next, start=after_user)
        before_system, system = _system_texts(template, user_prefix)
    except (ChatTemplateError, ValueError):
        return None
    if system is not None:
        roles = {"system": (before_system.removeprefix(start), system), **roles}
    texts = TurnTexts(no_system.removeprefix(start), roles, generation)
    written = [texts.no_system, generation, *(text for pair in roles.values() for text in pair)]
    return None if any("{{" in text or '"""' in text for text in written) else texts


def modelfile_content(texts: TurnTexts, gguf_file: str, stops: Collection[str]) -> str:
    """The content of a ``Modelfile``.

    Args:
        texts: Those of the chat template.
        gguf_file: Name of the GGUF file beside it.
        stops: Texts that end an answer.
    """
    roles = "{{ else ".join(
        f'if eq .Role "{role}" }}}}{before}{{{{ .Content }}}}{after}' for role, (before, after) in texts.roles.items()
    )
    condition = "not .System" if "system" in texts.roles else "true"
    template = (
        f"{{{{ if {condition} }}}}{texts.no_system}{{{{ end }}}}"
        f"{{{{ range .Messages }}}}{{{{ {roles}{{{{ end }}}}{{{{ end }}}}{texts.generation}"
    )
    parameters = "".join(f'PARAMETER stop "{stop}"\n' for stop in stops)
    return f'FROM ./{gguf_file}\n\nTEMPLATE """{template}"""\n\n{parameters}'


def parse_modelfile(content: str) -> tuple[TurnTexts, list[str]] | None:
    """The texts and the stops of a ``Modelfile`` that ``modelfile_content`` wrote; ``None`` for any other."""
    match = _MODELFILE.fullmatch(content)
    if match is None:
        return None
    roles = {role["role"]: (role["before"], role["after"]) for role in _ROLE.finditer(match["roles"])}
    stops = re.findall(r'PARAMETER stop "([^"\n]*)"\n', match["parameters"])
    return TurnTexts(match["no_system"], roles, match["generation"]), stops


def _system_texts(template: ChatTemplate, user_prefix: str) -> tuple[str, str | None]:
    """The texts before and after a system message; no second text if the template takes none."""
    messages = [_message("system", _SYSTEM), _message("user", _USER)]
    try:
        rendered = _render(template, messages)
    except ChatTemplateError:
        return "", None
    before, after, _ = _cut(rendered, [_SYSTEM, _USER])
    return before, _without(after, end=user_prefix)


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _render(template: ChatTemplate, messages: Sequence[Message], *, generation: bool = False) -> str:
    return Conversation(template, messages).render(add_generation_prompt=generation)


def _cut(text: str, contents: Sequence[str]) -> list[str]:
    """The texts around the contents, each of which occurs once."""
    parts = re.split("|".join(contents), text)
    if len(parts) != len(contents) + 1:
        raise ValueError
    return parts


def _without(text: str, *, start: str = "", end: str = "") -> str:
    """A text without its start or its end, which it must have."""
    if not text.startswith(start) or not text.endswith(end):
        raise ValueError
    return text[len(start) : len(text) - len(end)]
