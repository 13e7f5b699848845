"""Marks that say whether an answer is good or bad, beside a row or beside one turn of its conversation."""

from __future__ import annotations

from collections.abc import Container

from ftpipe.dataset.conversion.row import Fields, Row, SkipRow, normalize_key

_GOOD_IF_TRUE = (
    *("label", "ktotag", "desirable", "isdesirable", "isgood", "good", "iscorrect", "correct"),
    *("accepted", "isaccepted", "approved", "isapproved", "preferred", "ispreferred", "chosen", "ischosen"),
    *("issafe", "safe", "ishelpful", "helpful", "ispositive", "thumbsup", "liked", "upvoted", "reward"),
)
"""Marks for which 0 and 1 mean bad and good."""
_BAD_IF_TRUE = (
    *("isbad", "bad", "isnegative", "negative", "istoxic", "toxic", "isharmful", "harmful", "ishallucination"),
    *("hallucination", "thumbsdown", "disliked", "downvoted", "isrejected", "rejected"),
)
"""Marks for which 0 and 1 mean good and bad."""
_WORDED = (*("feedback", "userfeedback", "thumbs", "rating", "score", "vote", "votes", "quality", "status", "verdict"),)
"""Marks in words, or on a scale of which only the end is known."""
VERDICT_KEYS = (*_GOOD_IF_TRUE, *_BAD_IF_TRUE, *_WORDED)
_VERDICTS = {
    **dict.fromkeys(("true", "thumbsup", "up", "positive", "good", "desirable", "approved", "accepted", "👍"), True),
    **dict.fromkeys(
        ("false", "thumbsdown", "down", "negative", "bad", "undesirable", "rejected", "👎", "-1", "-1.0"), False
    ),
}
_NUMBERS = {"1": True, "1.0": True, "0": False, "0.0": False, "yes": True, "no": False}
WEIGHT_KEYS = ("weight", "train", "trainable", "trainonturn", "training", "loss", "lossmask", "masked")
"""Keys of a turn that say whether it is trained."""
_WEIGHTS = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "false": 0, "true": 1}


def mark_of(key: str, value: object, ignored_keys: Container[str] = ()) -> bool | None:
    """Whether a key marks an answer as good or bad; ``None`` if it is no mark, or a scale whose middle is not known.

    ``True`` and ``False`` are read even where the caller ignores the key, because a bad answer must not be learnt.
    """
    name = normalize_key(key)
    if name not in VERDICT_KEYS or not isinstance(value, str | bool | int | float):
        return None
    text = str(value).strip()
    mark = _VERDICTS.get(text, _VERDICTS.get(normalize_key(text)))
    if mark is None and name in (*_GOOD_IF_TRUE, *_BAD_IF_TRUE) and name not in ignored_keys:
        mark = _NUMBERS.get(text.lower())
    return not mark if mark is not None and name in _BAD_IF_TRUE else mark


def weight_of(key: str, value: object) -> int | None:
    """The weight that a key gives a turn or row: 0 or 1; ``None`` for any other value."""
    weight = _WEIGHTS.get(str(value).strip().lower())
    return 1 - weight if weight is not None and normalize_key(key) == "masked" else weight


def is_left_out(key: str, value: object) -> bool:
    """True for a key that says that the answer beside it is not to be learnt: a bad mark, or a weight of 0."""
    has_no_weight = normalize_key(key) in WEIGHT_KEYS and weight_of(key, value) == 0
    return has_no_weight or mark_of(key, value) is False


def verdict_of(row: Row, fields: Fields) -> bool | None:
    """Whether the answer beside these keys is marked as good or bad; ``None`` if it is not marked.

    Raises:
        SkipRow: Two marks contradict each other.
    """
    verdict: bool | None = None
    for key, value in fields.value.items():
        mark = mark_of(key, value, row.options.ignored_keys)
        if mark is None or key in fields.read:
            continue
        if verdict is not None and verdict != mark:
            raise SkipRow(fields.path_of(key), "it contradicts another mark of the same answer")
        fields.read.add(key)
        verdict = mark
    return verdict
