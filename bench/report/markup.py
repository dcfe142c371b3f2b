"""HTML as a tree, so that no text can become markup.

Every name, title and value reaches a page as the text of an element or the value of an attribute; the
serializer of the standard library escapes both.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any
from xml.etree import ElementTree as ET

__all__ = ["Child", "Element", "data_block", "document", "el", "fragment", "on_lines", "slugs"]

_LINES = frozenset(
    [
        *("meta", "link", "title", "script", "head", "header", "main", "section", "footer", "div"),
        *(
            "h1",
            "h2",
            "h3",
            "p",
            "ul",
            "li",
            "table",
            "thead",
            "tbody",
            "tr",
            "figure",
            "dl",
            "option",
        ),
    ]
)

Element = ET.Element
Child = ET.Element | str | None


def el(tag: str, *children: Child, **attributes: object) -> Element:
    """An element with text and elements inside.

    Args:
        tag: its name.
        children: elements and texts, in order; None is left out.
        attributes: ``class_`` means class, further underscores are hyphens; None and False are left
            out, True is an attribute without a value.
    """
    element = ET.Element(tag)
    for name, value in attributes.items():
        if value is None or value is False:
            continue
        key = name.rstrip("_").replace("_", "-")
        element.set(key, "" if value is True else clean(str(value)))
    last: Element | None = None
    for child in children:
        if child is None:
            continue
        if isinstance(child, ET.Element):
            element.append(child)
            last = child
        elif last is None:
            element.text = (element.text or "") + clean(child)
        else:
            last.tail = (last.tail or "") + clean(child)
    return element


def clean(text: str) -> str:
    """Text that can be written as UTF-8 HTML: what cannot be shown becomes U+FFFD."""
    whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return "".join(c if c >= " " or c in "\n\t" else "\ufffd" for c in whole)


def data_block(name: str, value: Any) -> Element:
    """A block of JSON for the page's scripts; browsers never run it.

    ``<``, ``>`` and ``&`` are written as escapes of JSON, so that no text can end the block.
    """
    text = json.dumps(value, sort_keys=True, ensure_ascii=True, allow_nan=False)
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return el("script", text, type="application/json", class_=name)


def on_lines(element: Element) -> Element:
    """The element with a line for its start, and one for each child."""
    element.text = "\n"
    for child in element:
        child.tail = "\n"
    return element


def fragment(root: Element) -> str:
    """The text of a part of a page; ends with a newline."""
    return ET.tostring(root, encoding="unicode", method="html").rstrip("\n") + "\n"


def document(root: Element) -> str:
    """A page's text; ends with a newline."""
    for element in root.iter():
        # A line per row and section keeps the diffs of published sites readable; between inline
        # elements a line end would be a blank.
        if element.tag in _LINES and not element.tail:
            element.tail = "\n"
    return "<!doctype html>\n" + ET.tostring(root, encoding="unicode", method="html") + "\n"


def slugs(names: Iterable[str]) -> dict[str, str]:
    """A distinct name of a file or an anchor for every name, made of ``a-z``, ``0-9`` and ``-``."""
    found: dict[str, str] = {}
    for name in sorted(set(names)):
        letters = "".join(c if c.isascii() and c.isalnum() else "-" for c in name.lower())
        stem = "-".join(part for part in letters.split("-") if part)[:60].rstrip("-") or "unnamed"
        slug, n = stem, 1
        while slug in found.values():
            n += 1
            slug = f"{stem}-{n}"
        found[name] = slug
    return found
