"""FT2: messages. ``fields`` checks one message, ``turns`` their order, ``training`` what is trained."""

from __future__ import annotations

from ftpipe.dataset.rules.messages import fields, training, turns

GROUP = fields.GROUP
GROUP.rules += turns.GROUP.rules + training.GROUP.rules
