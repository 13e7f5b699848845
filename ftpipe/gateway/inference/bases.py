"""Find the model of an inference server that is one of this machine's base models."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ftpipe.errors import UsageError
from ftpipe.gateway.inference.client import ListedModel
from ftpipe.modeling.base_models import DEFAULT_BASE, DEFAULT_BASE_HUB_ID
from ftpipe.suggestions import nearest_name


def find_base(base: str, listed: Iterable[ListedModel], named: Mapping[str, str]) -> str | None:
    """The name that a base model has at the inference server; ``None`` if none, or more than one, could be it.

    Args:
        base: The base model's name here.
        listed: What the inference server lists.
        named: Names that the owner has given, by base model; they come first.
    """
    if base in named:
        return named[base]
    models = [model for model in listed if not model.is_adapter]
    names = {base, DEFAULT_BASE_HUB_ID} if base == DEFAULT_BASE else {base}
    exact = {model.name for model in models if names & {model.name, model.root}}
    snapshots = {f"models--{name.replace('/', '--')}/" for name in names}
    exact |= {model.name for model in models if any(snapshot in model.root for snapshot in snapshots)}
    alike = {model.name for model in models if _last_part(base) in (_last_part(model.name), _last_part(model.root))}
    found = exact or alike
    return found.pop() if len(found) == 1 else None


def parse_base_names(values: Iterable[str]) -> dict[str, str]:
    """Names at the inference server, by base model, from values ``BASE=NAME``.

    Raises:
        UsageError: A value has another form, or names a base model twice.
    """
    names: dict[str, str] = {}
    for value in values:
        base, equals, name = (part.strip() for part in value.partition("="))
        if not equals or not base or not name:
            message = f"--inference-model {value} is not BASE=NAME"
            raise UsageError(message, "for example --inference-model smollm2-135m-instruct=my-model")
        if base in names:
            raise UsageError(f"--inference-model names {base} twice", "leave one of them out")
        names[base] = name
    return names


def refuse_unlisted(named: Mapping[str, str], listed: Iterable[ListedModel], url: str) -> None:
    """Refuse a name that the inference server does not have.

    Raises:
        UsageError: It lists no base model of that name.
    """
    names = [model.name for model in listed if not model.is_adapter]
    for base, name in named.items():
        if name not in names:
            nearest = nearest_name(name, names)
            hint = f"did you mean --inference-model {base}={nearest}?" if nearest else f"it has {', '.join(names[:10])}"
            raise UsageError(f"the inference server {url} has no model {name}", hint)


def _last_part(name: str) -> str:
    return name.rstrip("/").rpartition("/")[2].casefold()
