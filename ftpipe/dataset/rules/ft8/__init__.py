"""FT8: quality; ``texts`` looks at one text at a time, ``sets`` at what is unusual among all records."""

from __future__ import annotations

from ftpipe.dataset.rules.ft8 import sets, texts

FAMILY = sets.FAMILY
FAMILY.rules += texts.FAMILY.rules
