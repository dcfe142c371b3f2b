"""From domains to one adapter: training examples of a mixture, its recipe, and the training itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import MethodError
from bench.llm.adapters import AdapterSpec, AdapterStore, MixturePart, StoredAdapter
from bench.llm.backbones import Backbone, load_tokenizer, resolve_backbone
from bench.llm.config import AdapterMethodConfig, LLMConfig
from bench.llm.examples import (
    Examples,
    concat,
    listwise_examples,
    pointwise_examples,
    sample_prompts,
    sample_sequences,
    sequence_examples,
)
from bench.llm.lora import write_init
from bench.llm.processes import everywhere
from bench.llm.prompts import PromptWriter, Template, load_template
from bench.llm.titles import prompt_titles
from bench.llm.training import TRAINER_VERSION, train_adapter
from bench.methods import Context, DomainView

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


__all__ = ["AdapterRecipe", "mixture_examples", "template_of", "writer_for"]

# Training seeds are small numbers, so that a further order of the same run meets no other run's.
_FURTHER_ORDER = 1000


def template_of(config: LLMConfig) -> Template:
    """The prompt template of a configuration: its own file, or the built-in one of its prompt."""
    return load_template(config.template or config.prompt)


def writer_for(
    titles: Sequence[str], config: LLMConfig, tokenizer: PreTrainedTokenizerBase
) -> PromptWriter:
    """The prompt writer of one domain, given the titles of its whole vocabulary."""
    template = template_of(config)
    cut = prompt_titles(
        titles,
        tokenizer,
        max_tokens=config.title_tokens,
        max_chars=config.title_chars,
        separator=template.separator,
    )
    return PromptWriter(
        template,
        tokenizer,
        cut,
        max_history=config.max_history,
        max_tokens=config.max_prompt_tokens,
        n_answers=config.n_answers,
    )


def domain_examples(
    view: DomainView, config: AdapterMethodConfig, tokenizer: PreTrainedTokenizerBase, seed: int
) -> Examples:
    """Training examples of one domain: a keyed sample, the same whoever asks for it.

    Args:
        view: the domain as training may see it.
        config: prompt, budget and label.
        tokenizer: of the backbone.
        seed: of the sample and of the training negatives.
    """
    writer = writer_for(list(view.items.titles), config, tokenizer)
    if config.prompt == "sequence":
        rows = sample_sequences(view, config.train_examples, seed)
        return sequence_examples(writer, view.sequences, rows)
    prompts = sample_prompts(view, config.train_examples, seed)
    if config.prompt == "listwise":
        return listwise_examples(writer, view, prompts, seed=seed, label=config.label)
    return pointwise_examples(
        writer, view, prompts, seed=seed, negatives_per_positive=config.train_negatives
    )


def mixture_examples(
    views: Sequence[DomainView], config: AdapterMethodConfig, tokenizer: Any, seed: int
) -> Examples:
    """Examples of all domains of a mixture, one after the other in the order given."""
    parts = [domain_examples(view, config, tokenizer, seed) for view in views]
    for view, examples in zip(views, parts, strict=True):
        if not len(examples):
            raise MethodError(
                f"{view.name} has no training sequence with two items, so that no adapter can be "
                "trained on it. Choose other sources."
            )
    return concat(parts)


@dataclass(frozen=True, slots=True)
class AdapterRecipe:
    """Which adapter a configuration asks for on a mixture of domains, and how it is made.

    Attributes:
        config: backbone, prompt, budget, shape and optimiser.
        init_seed: seed of the shared initialisation, fixed per study.
        seed: training seed: it decides the sample, the order and the training negatives.
        dtype: number format of the frozen backbone.
        order: 0, or the number of a further order of the same examples.
    """

    config: AdapterMethodConfig
    init_seed: int
    seed: int
    dtype: str
    order: int = 0

    @property
    def order_seed(self) -> int:
        """Seed of the order of the examples."""
        return self.seed + _FURTHER_ORDER * self.order

    def spec(
        self, hashes: Sequence[tuple[str, str]], backbone: Backbone | None = None
    ) -> AdapterSpec:
        """Recipe of the adapter on a mixture.

        Args:
            hashes: name and training hash of every domain of the mixture; a domain named twice
                counts twice.
            backbone: the configured one, None = find it, and download or convert it if need be.
        """
        config, template = self.config, template_of(self.config)
        backbone = backbone or resolve_backbone(config.backbone)
        return AdapterSpec(
            backbone=backbone.name,
            backbone_hash=backbone.content_hash,
            mixture=tuple(
                MixturePart(domain=name, training_hash=digest, n_examples=config.train_examples)
                for name, digest in hashes
            ),
            objective=config.prompt,
            label=self._label,
            template=template.name,
            template_hash=template.sha256,
            text=_text_settings(config),
            lora=config.lora,
            training=_training_settings(config),
            init_seed=self.init_seed,
            order_seed=self.order_seed,
            negatives_seed=self.seed,
            trainer_version=TRAINER_VERSION,
            dtype=self.dtype,
        )

    @property
    def _label(self) -> str:
        config = self.config
        if config.prompt == "listwise":
            return config.label
        return f"1:{config.train_negatives}" if config.prompt == "pointwise" else "title"

    def obtain(
        self,
        views: Sequence[DomainView],
        store: AdapterStore,
        context: Context,
        *,
        wait: bool = True,
    ) -> StoredAdapter:
        """The adapter on these domains, from the store or trained now.

        Args:
            views: the domains, as training may see them.
            store: where the adapter is kept.
            context: device, progress and log.
            wait: whether to wait while another process trains it.

        Raises:
            InUseError: another process trains it, and this one was not to wait, or not so long.
            MethodError: a domain has nothing to train on.
            BenchError: the disk is nearly full, or a stored adapter is damaged.
        """
        config = self.config
        by_key = {(view.name, view.training_hash): view for view in views}
        spec = self.spec([(view.name, view.training_hash) for view in views])
        ordered = [by_key[part.domain, part.training_hash] for part in spec.mixture]

        def make(out: Path, checkpoints: Path) -> Mapping[str, Any]:
            backbone = resolve_backbone(config.backbone)
            init = store.init(
                backbone.content_hash,
                config.lora,
                self.init_seed,
                lambda folder: write_init(backbone, config.lora, self.init_seed, folder),
            )
            examples = mixture_examples(ordered, config, load_tokenizer(backbone), self.seed)
            report = everywhere(
                train_adapter,
                {"progress": context.progress, "log": context.log},
                backbone=backbone,
                examples=examples,
                lora=config.lora,
                training=config.training,
                init=init,
                order_seed=self.order_seed,
                out=out,
                checkpoints=checkpoints,
                device=context.device,
                dtype=self.dtype,
                attention=config.attention,
                quantisation=config.quantisation,
            )
            return report.as_dict()

        return store.obtain(spec, make, progress=context.progress, wait=wait)


def _text_settings(config: LLMConfig) -> dict[str, Any]:
    """What of a configuration decides the text of a prompt, apart from its template."""
    names = ("max_history", "title_tokens", "title_chars", "max_prompt_tokens")
    return {name: getattr(config, name) for name in names}


def _training_settings(config: AdapterMethodConfig) -> dict[str, Any]:
    """What of the training decides the adapter; a quantised base is another one."""
    settings = config.training.decisive(config.lora)
    return {**settings, "quantisation": config.quantisation} if config.quantisation else settings
