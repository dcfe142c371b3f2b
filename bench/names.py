"""What a method and a domain may be called: in the registry, in options, and in files of anybody."""

from __future__ import annotations

import re

__all__ = ["DOMAIN_NAME", "METHOD_NAME"]

METHOD_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:+-]*")
"""Letters, digits and ``. _ : + -``, beginning with a letter or digit."""

DOMAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""A folder name on every system: at most 64 letters, digits, ``.``, ``_`` and ``-``."""
