"""FT2: messages; ``shape`` looks at one message, ``turns`` at their order, ``training`` at what is learnt."""

from __future__ import annotations

from ftpipe.dataset.rules.messages import fields, training, turns

FAMILY = fields.FAMILY
FAMILY.rules += turns.FAMILY.rules + training.FAMILY.rules
