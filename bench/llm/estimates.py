"""What a training or a scoring will cost, from counts: tokens, arithmetic, seconds, memory.

Nothing is tokenised and no model is loaded, so that a plan for 7 billion parameters is made at once on
a machine that could not hold them. Estimates are meant to be within a factor of two, if nothing
else runs on the machine.

Arithmetic, with P the weights of the decoder layers' projections, V x d the vocabulary projection:
training takes 4 P per token (forward 2 P, gradient of the inputs 2 P; the frozen weights get none),
2 P more with gradient checkpointing, and 4 V d per predicted token; scoring takes 2 P and 2 V d.
Attention adds its products. ``benchmarks/llm_training.py`` counts alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from bench.llm.config import CPU_BATCH_TOKENS, AdapterMethodConfig, LLMConfig, PromptStyle
from bench.llm.lora import LoraSpec
from bench.llm.machine import Machine
from bench.llm.shapes import ModelShape
from bench.methods import DomainSize

__all__ = [
    "Work",
    "batch_tokens",
    "merge_memory_mb",
    "scoring_memory_mb",
    "scoring_work",
    "seconds_of",
    "training_memory_mb",
    "training_work",
]

# Measured with SmolLM2's tokenizer on titles of films (3.4), cosmetics (3.1) and food (2.7).
_BYTES_PER_TOKEN = 3.1
# Tokens around a title: a line end or a separator.
_BETWEEN_TITLES = 1.0
# Tokens of the built-in templates without any title, and those after a pointwise candidate.
_FRAME: Mapping[PromptStyle, int] = {"sequence": 11, "listwise": 85, "pointwise": 65}
_QUESTION = 14
_YES_NO = 2
_TRAINING_CANDIDATES = 30

# Elements that a processor passes over (in units of ``silu(x) * y``) for every element of a layer's
# activations: fitted to SmolLM2-135M on one AMX thread, bfloat16 and float32, two domains.
_PASSES = {"train": 6.0, "read": 2.0, "generate": 80.0}
# Share of an accelerator's matrix-product rate that is reached, and of its memory's rate.
_SHARE, _BANDWIDTH_SHARE = 0.4, 0.6
# Every step of a generation reads all weights once for the whole batch, and starts about 50 operations
# in each layer (LoRA included), at 10 microseconds. An accelerator whose memory is not known has the
# bytes per operation of the reference.
_STEP_OF_A_LAYER = 50 * 10e-6
_BYTES_PER_FLOP = 3.35e12 / 989e12
# Batches of accelerators: their least and largest size, the most for vLLM, which keeps the memory for
# its cache, and the share of the memory that weights and a batch may take.
_BATCHES, _VLLM_BATCH, _MEMORY_SHARE = (4096, 65_536), 16_384, 0.6
# Requests that vLLM runs at a time.
_VLLM_REQUESTS = 256
# Reading weights from disk, bytes per second, and starting Python with its libraries, seconds.
_READING, _STARTING = 0.5e9, 3.0
_RUNTIME_MB = 600.0
_ITEM = {"float32": 4, "bfloat16": 2, "float16": 2}
_PACKED = {"8bit": 1.0, "4bit": 0.5}
# Rows of logits that are held at once, float32, while a loss or a likelihood is taken.
_LOGIT_ROWS = 512


@dataclass(frozen=True, slots=True)
class Work:
    """Text that a model processes.

    Attributes:
        read: tokens that are read in parallel.
        predicted: tokens whose probability is asked for.
        pairs: (token, earlier token of its text) pairs, which attention compares.
        generated: tokens that are written one after the other.
        steps: passes of the model that write them, one token of every text of a batch in each; 0 = as
            many as tokens.
    """

    read: float = 0.0
    predicted: float = 0.0
    pairs: float = 0.0
    generated: float = 0.0
    steps: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(
            self.read + other.read,
            self.predicted + other.predicted,
            self.pairs + other.pairs,
            self.generated + other.generated,
            (self.steps or self.generated) + (other.steps or other.generated),
        )

    def times(self, factor: float) -> Work:
        """The same text ``factor`` times."""
        return Work(
            self.read * factor,
            self.predicted * factor,
            self.pairs * factor,
            self.generated * factor,
            self.steps * factor,
        )

    @property
    def tokens(self) -> int:
        """All tokens."""
        return round(self.read + self.generated)


def title_tokens(size: DomainSize, config: LLMConfig) -> float:
    """Mean tokens of a title as it is shown, with what separates it from the next one."""
    total = 0.0
    for n_bytes, count in size.titles.items():
        if config.title_chars is not None:
            n_bytes = min(n_bytes, config.title_chars)
        tokens = max(1.0, n_bytes / _BYTES_PER_TOKEN)
        if config.title_tokens is not None:
            tokens = min(tokens, float(config.title_tokens))
        total += count * tokens
    return total / max(1, sum(size.titles.values())) + _BETWEEN_TITLES


def _mean(weighted: Sequence[tuple[float, float]]) -> float:
    """Mean of (value, weight) pairs; 0 without any."""
    total = sum(weight for _, weight in weighted)
    return sum(value * weight for value, weight in weighted) / total if total else 0.0


def _text(config: LLMConfig, tokens: float) -> float:
    """Length of a prompt, no longer than the configured limit."""
    limit = config.max_prompt_tokens
    return tokens if limit is None else min(tokens, float(limit))


def training_work(sizes: Sequence[DomainSize], config: AdapterMethodConfig) -> Work:
    """All epochs of a training on a mixture of domains; one named twice counts twice.

    Args:
        sizes: of every part of the mixture.
        config: prompt, budget and label.
    """
    one = sum((_domain_work(size, config) for size in sizes), Work())
    return one.times(config.training.epochs)


def _domain_work(size: DomainSize, config: AdapterMethodConfig) -> Work:
    title = title_tokens(size, config)
    if config.prompt == "sequence":
        usable = [(length, n) for length, n in size.sequences.items() if length >= 2]
        shown = _mean([(min(length, config.max_history + 1), n) for length, n in usable])
        examples = min(config.train_examples, sum(n for _, n in usable))
        length = _text(config, _FRAME["sequence"] + shown * title)
        return Work(length, max(0.0, shown - 1) * title, length**2 / 2).times(examples)
    history = _mean(
        [
            (min(position, config.max_history), n)
            for length, n in size.sequences.items()
            for position in range(1, length)
        ]
    )
    pairs = sum((length - 1) * n for length, n in size.sequences.items() if length >= 2)
    prompts = min(config.train_examples, pairs)
    if config.prompt == "listwise":
        answer = config.n_answers * title
        listed = _TRAINING_CANDIDATES * title
        length = _text(config, _FRAME["listwise"] + history * title + listed + answer)
        return Work(length, answer, length**2 / 2).times(prompts)
    length = _text(config, _FRAME["pointwise"] + (history + 1) * title + _QUESTION + _YES_NO)
    return Work(length, _YES_NO, length**2 / 2).times(prompts * (1 + config.train_negatives))


def batch_tokens(
    config: LLMConfig, shape: ModelShape | None, *, dtype: str, memory: int | None
) -> int:
    """Tokens that are scored in one forward pass: what is configured, else by the device.

    The same for the same model and device: scores are equal to the bit for equal batches only.

    Args:
        config: says it, or leaves it to the device.
        shape: of the model; None = not known, for which a batch is as on a processor.
        dtype: number format.
        memory: bytes of the accelerator, None = a processor.

    Returns:
        On an accelerator the largest power of two between 4,096 and 65,536 (16,384 for vLLM) that takes
        60 % of its memory, weights included.
    """
    if config.batch_tokens is not None:
        return config.batch_tokens
    if memory is None or shape is None:
        return CPU_BATCH_TOKENS
    tokens = _VLLM_BATCH if config.engine == "vllm" else _BATCHES[1]
    while tokens > _BATCHES[0]:
        needed = scoring_memory_mb(shape, config, dtype=dtype, tokens=tokens)
        if 1e6 * needed <= _MEMORY_SHARE * memory:
            break
        tokens //= 2
    return tokens


def scoring_work(
    size: DomainSize,
    config: LLMConfig,
    *,
    n_users: int,
    n_candidates: int,
    tokens: int | None = None,
) -> Work:
    """Scoring of users' candidates.

    Args:
        size: of the target.
        config: prompt and scorer.
        n_users: requests.
        n_candidates: candidates of each.
        tokens: tokens of one forward pass (:func:`batch_tokens`); None = as on a processor.
    """
    tokens = tokens or config.batch_tokens or CPU_BATCH_TOKENS
    title = title_tokens(size, config)
    # A test history is the training sequence and the validation item.
    history = _mean(
        [(min(n + 1, config.max_history), count) for n, count in size.sequences.items()]
    )
    listed = n_candidates * title if config.prompt == "listwise" else 0.0
    prompt = _text(config, _FRAME[config.prompt] + history * title + listed)
    if config.writes_lists:
        answer = config.n_answers * title
        pairs = prompt**2 / 2 + answer * prompt
        together = max(1.0, tokens // (prompt + answer))
        if config.engine == "vllm":
            together = max(together, float(_VLLM_REQUESTS))
        steps = answer / min(together, n_users or 1)
        return Work(prompt, 0.0, pairs, generated=answer, steps=steps).times(n_users)
    if config.prompt == "pointwise":
        branch, asked = title + _QUESTION, 1.0
    else:
        branch, asked = title - 1.0, title  # the last token of a title is only predicted
    branches = n_candidates * branch
    # If a user's candidates do not fit into one pass, the prompt is read again for the rest.
    passes = max(1.0, branches / max(1.0, tokens - prompt))
    return Work(
        read=passes * prompt + branches,
        predicted=n_candidates * asked,
        pairs=passes * prompt**2 / 2 + branches * (prompt + branch / 2),
    ).times(n_users)


def prior_work(
    size: DomainSize,
    config: LLMConfig,
    *,
    n_users: int,
    n_candidates: int,
    tokens: int | None = None,
) -> Work:
    """What the prior of the titles takes.

    One pass over the vocabulary, or if the prompt lists the candidates one without history for
    every user.

    Args:
        size: of the target.
        config: prompt and scorer.
        n_users: requests.
        n_candidates: candidates of each.
        tokens: as for :func:`scoring_work`.
    """
    if config.prior_shares == (0.0,):
        return Work()
    if config.prompt == "listwise":
        empty = replace(size, sequences={0: 1})
        return scoring_work(
            empty, config, n_users=n_users, n_candidates=n_candidates, tokens=tokens
        )
    title, n_items = title_tokens(size, config), sum(size.titles.values())
    prompt = float(_FRAME[config.prompt])
    return Work(
        read=prompt + n_items * (title - 1.0),
        predicted=n_items * title,
        pairs=n_items * title * (prompt + title / 2),
    )


def seconds_of(
    work: Work, shape: ModelShape, machine: Machine, *, training: AdapterMethodConfig | None = None
) -> float:
    """Estimated wall seconds, the start of the process and of the model included.

    Args:
        work: the text.
        shape: of the model.
        machine: what computes it.
        training: the configuration, if an adapter is trained.
    """
    rounds = 1.0
    if training is not None:
        rounds = 3.0 if training.training.gradient_checkpointing else 2.0
    attention = 4.0 * shape.layers * shape.heads * shape.head_size
    head = 2.0 * shape.vocabulary * shape.hidden
    forward = 2.0 * shape.block_weights * work.read + attention * work.pairs
    # The projection is never recomputed.
    products = rounds * forward + (1.0 if training is None else 2.0) * head * work.predicted
    written = (2.0 * shape.block_weights + head) * work.generated
    kind = "train" if training is not None else "read"
    start = _STARTING + 2.0 * shape.parameters / _READING
    if machine.passes is None:
        bandwidth = machine.bandwidth or machine.products * _BYTES_PER_FLOP
        step = 2.0 * shape.parameters / (_BANDWIDTH_SHARE * bandwidth)
        step += shape.layers * _STEP_OF_A_LAYER
        steps = (work.steps or work.generated) * step
        return start + (products + written) / _SHARE / machine.products + steps
    elements = shape.activations * work.read + shape.vocabulary * work.predicted
    extra = _PASSES[kind] * (rounds / 2.0 if training is not None else 1.0) * elements
    extra += _PASSES["generate"] * (shape.activations + shape.vocabulary) * work.generated
    return start + (products + written) / machine.products + extra / machine.passes


def training_memory_mb(shape: ModelShape, config: AdapterMethodConfig, *, dtype: str) -> float:
    """Peak memory of a training process in MB: weights, optimiser, activations of a micro-batch."""
    item = _ITEM[dtype]
    tokens = config.training.micro_batch_tokens
    kept = shape.activations
    if config.training.gradient_checkpointing:
        kept = shape.layers * shape.hidden + shape.activations // shape.layers
    # Values, gradient and two moments in float32, and the copy that products use.
    adapter = shape.lora_weights(config.lora) * (16 + item)
    logits = 2 * 4 * min(tokens, _LOGIT_ROWS) * shape.vocabulary
    weights = _weight_bytes(shape, config, item)
    return _RUNTIME_MB + (weights + adapter + tokens * kept * item + logits) / 1e6


def _weight_bytes(shape: ModelShape, config: LLMConfig, item: int) -> float:
    """Bytes of the frozen weights."""
    return shape.parameters * (_PACKED[config.quantisation] if config.quantisation else item)


def scoring_memory_mb(
    shape: ModelShape, config: LLMConfig, *, dtype: str, tokens: int | None = None
) -> float:
    """Peak memory of a scoring process in MB: weights and what a forward pass over ``tokens`` holds."""
    item = _ITEM[dtype]
    tokens = tokens or config.batch_tokens or CPU_BATCH_TOKENS
    weights = _weight_bytes(shape, config, item)
    held = tokens * (shape.activations // shape.layers) * item
    if config.writes_lists:
        cache = 2 * shape.layers * shape.kv_heads * shape.head_size * item
        held += tokens * cache
    logits = 2 * 4 * min(tokens, _LOGIT_ROWS) * shape.vocabulary
    return _RUNTIME_MB + (weights + held + logits) / 1e6


def merge_memory_mb(shape: ModelShape, lora: LoraSpec, n_adapters: int) -> float:
    """Peak memory of a merge in MB: its inputs and its result in float32, and as much to work with."""
    return _RUNTIME_MB + 2 * 4 * (n_adapters + 1) * shape.lora_weights(lora) / 1e6
