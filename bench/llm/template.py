"""Prompt templates: Jinja2 files whose blocks are rendered, and tokenised, one by one."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bench.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from jinja2 import Template as JinjaTemplate
    from jinja2 import nodes

__all__ = ["BUILT_IN", "PromptKind", "Template", "load_template"]

PromptKind = Literal["sequence", "listwise", "pointwise"]

BUILT_IN: tuple[PromptKind, ...] = ("listwise", "sequence", "pointwise")
"""Templates of the package, one for each kind of prompt."""

_REQUIRED: dict[PromptKind, tuple[str, ...]] = {
    "sequence": ("before", "item"),
    "listwise": ("before", "item", "between", "candidate", "after", "answer"),
    "pointwise": ("before", "item", "suffix", "yes", "no"),
}
_OPTIONAL: dict[PromptKind, tuple[str, ...]] = {
    "sequence": ("system", "after", "answer"),
    "listwise": ("system",),
    "pointwise": ("system",),
}
_LONGEST = 100_000
# Python compiles what Jinja makes of it: from 100 levels of blocks or 200 of brackets on it refuses, after
# up to a minute.
_DEEPEST = 50
_FILTERS = ("capitalize", "default", "int", "length", "lower", "string", "title", "trim", "upper")
# No loop, macro, call or product: text grows by what the file itself holds.
_STATEMENTS = ("Output", "TemplateData", "If")
_VALUES = ("Name", "Const", "List", "Tuple", "Filter", "Test", "CondExpr")
_OPERATIONS = ("Compare", "Operand", "And", "Or", "Not", "Neg", "Add", "Sub", "Concat")
_CONSTRUCTS = {*_STATEMENTS, *_VALUES, *_OPERATIONS}
# Any filter that changes case, escapes or shortens changes this text.
_PROBE = "weaveBENCH <Title> & co"


@dataclass(frozen=True)
class Template:
    """A parsed template.

    Attributes:
        name: built-in name, or path of the file.
        sha256: SHA-256 of the text (UTF-8, line ends as LF); part of an adapter's identity.
        kind: ``listwise`` if it shows candidates, ``pointwise`` if it asks about one item, else
            ``sequence``.
        chat: whether the tokenizer's chat template is put around it.
    """

    name: str
    sha256: str
    kind: PromptKind
    chat: bool
    _source: JinjaTemplate
    _variables: tuple[tuple[str, Any], ...]

    @property
    def blocks(self) -> frozenset[str]:
        """Names of its blocks."""
        return frozenset(self._source.blocks)

    def render(self, block: str, **values: object) -> str:
        """Text of one block; empty for an optional block that the file leaves out.

        Args:
            block: its name.
            values: ``title`` and ``last`` for blocks about an item, ``n_answers`` for the others.

        Raises:
            ConfigError: the block uses an unknown variable or fails.
        """
        from jinja2 import TemplateError

        if block not in self._source.blocks:
            return ""
        context = self._source.new_context({**dict(self._variables), **values})
        try:
            text = "".join(self._source.blocks[block](context))
            text.encode()  # half a surrogate pair is no text
            return text
        except (TemplateError, TypeError, ValueError, ArithmeticError) as error:
            raise ConfigError(
                f"template {self.name}, block {block!r}: {error}. Blocks about an item know `title` "
                "and `last`, the others `n_answers`."
            ) from None

    @property
    def answer_block(self) -> str:
        """``answer``, or ``item`` if answers look like the items of the history."""
        return "answer" if "answer" in self._source.blocks else "item"

    @cached_property
    def separator(self) -> str:
        """What follows a title in a list of answers."""
        return self.around(self.answer_block, last=False)[1]

    @cached_property
    def terminator(self) -> str:
        """What follows the last title of an answer; empty if the end of the turn does it."""
        return self.around(self.answer_block, last=True)[1]

    @cached_property
    def lead_in(self) -> str:
        """Last line before the answer; an answer that repeats the prompt repeats it too."""
        lines = [line for line in self.render("after", n_answers=5).splitlines() if line.strip()]
        return lines[-1].strip() if lines else ""

    def around(self, block: str, *, last: bool) -> tuple[str, str]:
        """What a block about an item puts before and after the title.

        Raises:
            ConfigError: the block does not hold the title, as it is, exactly once.
        """
        text = self.render(block, title=_PROBE, last=last)
        if text.count(_PROBE) != 1:
            raise ConfigError(
                f"template {self.name}, block {block!r} holds the title {text.count(_PROBE)} times; "
                "expected `{{ title }}` once, without a filter."
            )
        before, _, after = text.partition(_PROBE)
        return before, after


def load_template(name_or_path: str | Path) -> Template:
    """Load a built-in template by name, or a file.

    Args:
        name_or_path: ``listwise``, ``sequence``, ``pointwise``, or a path.

    Raises:
        ConfigError: no such template; not valid Jinja2; a block is missing or unknown; text, or
            anything but constants, outside the blocks.
    """
    name = str(name_or_path)
    if name in BUILT_IN:
        data = (resources.files("bench.llm") / "templates" / f"{name}.j2").read_bytes()
    else:
        path = Path(name_or_path)
        if not path.is_file():
            raise ConfigError(
                f"no prompt template {name!r}.{did_you_mean(name, BUILT_IN)} Expected one of "
                f"{', '.join(BUILT_IN)}, or the path of a Jinja2 file."
            )
        data = path.read_bytes()
    if len(data) > _LONGEST:
        raise ConfigError(
            f"template {name} holds {len(data):,} bytes; at most {_LONGEST:,} are read."
        )
    try:
        source = data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise ConfigError(f"template {name} is not UTF-8 text ({error}).") from None
    return _parse(name, source)


def _parse(name: str, source: str) -> Template:
    from jinja2 import StrictUndefined, TemplateSyntaxError, nodes
    from jinja2.sandbox import SandboxedEnvironment

    # Prompts are no HTML: escaping would change the titles.
    environment = SandboxedEnvironment(
        autoescape=False, undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True
    )
    variables: dict[str, Any] = {}
    try:
        tree = environment.parse(source)
        for node in tree.body:
            if isinstance(node, nodes.Assign | nodes.Block):
                _check_constructs(name, node)
            if isinstance(node, nodes.Assign) and isinstance(node.target, nodes.Name):
                value = node.node
                if not isinstance(value, nodes.Expr):
                    raise nodes.Impossible
                variables[node.target.name] = value.as_const()
            elif not isinstance(node, nodes.Block) and not _is_blank(node):
                raise ConfigError(
                    f"template {name}, line {node.lineno}: {type(node).__name__.lower()} outside a "
                    "block never reaches a prompt. Move it into a block."
                )
        template = environment.from_string(source)
    except TemplateSyntaxError as error:
        raise ConfigError(f"template {name}, line {error.lineno}: {error.message}.") from None
    except RecursionError:
        raise ConfigError(f"template {name}: its expressions are nested too deeply.") from None
    except ValueError as error:  # an integer of thousands of digits
        raise ConfigError(f"template {name}: {error}.") from None
    except nodes.Impossible:
        raise ConfigError(
            f"template {name}: `set` outside a block takes constants only, such as "
            "`{% set chat = true %}`."
        ) from None
    chat = variables.get("chat")
    if not isinstance(chat, bool):
        raise ConfigError(
            f"template {name}: chat = {chat!r}; expected the line `{{% set chat = true %}}` (the "
            "backbone's chat template goes around the prompt) or `{% set chat = false %}`."
        )
    kind = _kind(name, set(template.blocks))
    digest = hashlib.sha256(source.encode()).hexdigest()
    loaded = Template(name, digest, kind, chat, template, tuple(sorted(variables.items())))
    if kind == "listwise" and not loaded.separator.strip():
        raise ConfigError(
            f"template {name}, block 'answer' puts {loaded.separator!r} between titles; expected a "
            "visible separator if `last` is false, such as `||`."
        )
    return loaded


def _check_constructs(name: str, root: nodes.Node) -> None:
    """Refuse what could loop without end or fill the memory, before any of it is computed.

    Raises:
        ConfigError: the first such construct, with its line.
    """
    from jinja2 import nodes

    pending = [(node, 1) for node in root.iter_child_nodes()]
    while pending:
        node, depth = pending.pop()
        kind = type(node).__name__
        if depth > _DEEPEST:
            raise ConfigError(
                f"template {name}, line {node.lineno}: nested more than {_DEEPEST} levels deep."
            )
        if kind not in _CONSTRUCTS:
            raise ConfigError(
                f"template {name}, line {node.lineno}: {kind.lower()} is not part of a prompt's language. "
                "Expected text, `{{ title }}` and other variables, and `{% if %}`."
            )
        if isinstance(node, nodes.Filter) and node.name not in _FILTERS:
            raise ConfigError(
                f"template {name}, line {node.lineno}: filter {node.name!r}; expected one of "
                f"{', '.join(_FILTERS)}."
            )
        pending += [(inner, depth + 1) for inner in node.iter_child_nodes()]


def _is_blank(node: Any) -> bool:
    from jinja2 import nodes

    return isinstance(node, nodes.Output) and all(
        isinstance(part, nodes.TemplateData) and not part.data.strip() for part in node.nodes
    )


def _kind(name: str, blocks: set[str]) -> PromptKind:
    """The kind of prompt that the blocks make, with all that it needs and nothing else."""
    kind: PromptKind = "sequence"
    if "candidate" in blocks:
        kind = "listwise"
    elif "suffix" in blocks:
        kind = "pointwise"
    missing = [block for block in _REQUIRED[kind] if block not in blocks]
    if missing:
        raise ConfigError(
            f"template {name} has no block {', '.join(map(repr, missing))}; a {kind} prompt needs "
            f"{', '.join(_REQUIRED[kind])} (optional: {', '.join(_OPTIONAL[kind])})."
        )
    allowed = _REQUIRED[kind] + _OPTIONAL[kind]
    for block in sorted(blocks.difference(allowed)):
        raise ConfigError(
            f"template {name}: unknown block {block!r} of a {kind} prompt."
            f"{did_you_mean(block, allowed)} Known: {', '.join(allowed)}."
        )
    return kind
