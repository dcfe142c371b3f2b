"""The engine for many requests on accelerators: vLLM, an extra (``docs/vllm.md``).

A likelihood is read by *forced decoding*: one request per branch emits the branch token by token and
reports the model's own log-probabilities, over the whole vocabulary; all branches of a prompt read
it from the prefix cache. ``prompt_logprobs``, the other exact way, never reads that cache and is
kept for builds that can force nothing.

A call holds requests of one adapter, or of none: on its CPU backend vLLM 0.32 adds an adapter's
delta to base requests of the same batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bench.errors import ConfigError, MethodError
from bench.llm.engines.base import Choice, Generation, TokenIds
from bench.llm.engines.updates import stamp
from bench.llm.engines.vllm_options import (
    Route,
    VllmOptions,
    adapter_rank,
    check_installed,
    check_settings,
    rank_capacity,
)
from bench.memory import release_accelerators

if TYPE_CHECKING:
    from bench.llm.backbones import Backbone

__all__ = ["VllmEngine", "VllmOptions"]

_PROCESSOR = "bench.llm.engines.vllm_forced:ForcedTokens"
_MOST_CHOICES = 128  # vLLM's MAX_LOGPROB_TOKEN_IDS


class VllmEngine:
    """Scores and generates with vLLM; see :class:`bench.llm.engines.base.Engine`.

    vLLM starts at the first call, in processes of its own, and holds adapters from the first call
    that names one: scripts need an ``if __name__ == "__main__"`` guard.

    Args:
        backbone: the model; its folder is loaded.
        device: kind of device that the installed vLLM serves: ``cpu`` or ``cuda``. Which
            accelerators is said by ``CUDA_VISIBLE_DEVICES``.
        dtype: ``float32``, ``bfloat16`` or ``float16``.
        attention: only ``sdpa``, the default: vLLM chooses its own implementation.
        quantisation: ``4bit`` (bitsandbytes, accelerators only) or None.
        batch_tokens: most tokens processed in one step, >= 1.
        options: how vLLM uses the machine.

    Raises:
        ConfigError: a value that vLLM cannot serve.
        MissingExtraError: vLLM is not installed.
    """

    name = "vllm"

    def __init__(
        self,
        backbone: Backbone,
        *,
        device: str = "cpu",
        dtype: str = "float32",
        attention: str = "sdpa",
        quantisation: str | None = None,
        batch_tokens: int = 4096,
        options: VllmOptions | None = None,
    ) -> None:
        check_settings(device, attention, quantisation, batch_tokens)
        self.tokens_processed = 0
        self._options = options or VllmOptions()
        self._route = self._options.resolved_route(device)
        self._device = device
        self._arguments = {
            "model": str(backbone.folder),
            "dtype": dtype,
            "quantization": "bitsandbytes" if quantisation else None,
            "max_num_batched_tokens": batch_tokens,
            "max_logprobs": _MOST_CHOICES,
            "enable_prefix_caching": True,
            # Nothing in the model's folder may change how a request is decoded.
            "generation_config": "vllm",
            "disable_log_stats": True,
            **self._options.arguments(device),
            **({"logits_processors": [_PROCESSOR]} if self._route == "forced" else {}),
            **({"enable_trace_replay": True} if self._route == "replay" else {}),
        }
        self._llm: Any = None
        self._rank = 0
        self._ids: dict[tuple[str, int, int], int] = {}
        check_installed(device)

    def branch_log_probs(
        self,
        prompts: Sequence[TokenIds],
        branches: Sequence[Sequence[TokenIds]],
        *,
        adapter: Path | None,
    ) -> list[NDArray[np.float64]]:
        """Sum of the token log-probabilities of every branch; see :class:`Engine`."""
        asked, owners = _distinct(branches)
        texts = [prompts[user] for user, _ in asked]
        ids = [list(branch) for _, branch in asked]
        read: Callable[[Any, Sequence[int]], float]
        if self._route == "prompt":
            if self._device == "cpu" and adapter is not None:
                raise ConfigError(
                    "route=prompt on the CPU reads the base model only: vLLM 0.32 crashes if "
                    "prompt_logprobs meet an adapter there. Use route=forced."
                )
            inputs = [[*text.tolist(), *branch] for text, branch in zip(texts, ids, strict=True)]
            settings: list[dict[str, Any]] = [{"max_tokens": 1, "prompt_logprobs": 0}] * len(ids)
            read = _of_prompt
        else:
            inputs = [text.tolist() for text in texts]
            settings = [
                {"max_tokens": len(branch), "logprobs": 0, **_forced(self._route, branch)}
                for branch in ids
            ]
            read = _of_answer
        outputs = self._run(inputs, settings, adapter)
        values = [read(output, branch) for output, branch in zip(outputs, ids, strict=True)]
        # An empty branch has no request and log-probability 0.
        return [np.array([values[i] if i >= 0 else 0.0 for i in row]) for row in owners]

    def branch_choice(
        self,
        prompts: Sequence[TokenIds],
        branches: Sequence[Sequence[TokenIds]],
        choices: Sequence[int],
        *,
        adapter: Path | None,
    ) -> list[NDArray[np.float32]]:
        """Log-probabilities of given next tokens after every branch; see :class:`Engine`."""
        found = [np.empty((len(own), len(choices)), dtype=np.float32) for own in branches]
        distinct = sorted(set(map(int, choices)))
        parts = [distinct[i : i + _MOST_CHOICES] for i in range(0, len(distinct), _MOST_CHOICES)]
        places = [(u, b) for u, own in enumerate(branches) for b in range(len(own))]
        outputs = self._run(
            [
                [*prompts[user].tolist(), *branches[user][branch].tolist()]
                for user, branch in places
                for _ in parts
            ],
            [{"max_tokens": 1, "logprob_token_ids": part} for _ in places for part in parts],
            adapter,
        )
        for place, (user, branch) in enumerate(places):
            values: dict[int, Any] = {}
            for output in outputs[place * len(parts) : (place + 1) * len(parts)]:
                values.update(output.outputs[0].logprobs[0])
            found[user][branch] = [values[int(choice)].logprob for choice in choices]
        return found

    def generate(
        self,
        prompts: Sequence[TokenIds],
        *,
        max_new_tokens: Sequence[int],
        stop: Sequence[int],
        adapter: Path | None,
    ) -> list[Generation]:
        """Greedy continuation of every prompt; see :class:`Engine`."""
        for user, budget in enumerate(max_new_tokens):
            if budget < 1:
                raise ConfigError(f"max_new_tokens of prompt {user} is {budget}; expected >= 1.")
        outputs = self._run(
            [prompt.tolist() for prompt in prompts],
            [
                # The caller's stop tokens are the only ones; the model's own are among them or not.
                {"max_tokens": int(budget), "stop_token_ids": [*map(int, stop)], "ignore_eos": True}
                for budget in max_new_tokens
            ],
            adapter,
        )
        ends = frozenset(map(int, stop))
        return [_generation(output.outputs[0], ends) for output in outputs]

    def generate_list(
        self,
        prompts: Sequence[TokenIds],
        choices: Sequence[Sequence[Choice]],
        *,
        n_titles: int,
        separator: str,
        adapter: Path | None,
    ) -> list[Generation]:
        """Greedy lists of distinct titles, each constrained to the titles not yet named.

        Every title is one structured request (``choice``) after the prompt and the titles before
        it, so that no title is named twice and none is invented. The separator belongs to the
        choice: a title that begins another one competes with it on equal terms. The grammar reads
        text, so that titles may be written in other tokens than those of the choices.

        Args:
            prompts: n token sequences.
            choices: for every prompt the titles to choose from; equal texts count once.
            n_titles: length of the list, >= 1; shorter if there are fewer titles.
            separator: text between two titles.
            adapter: PEFT folder, or None for the base.

        Returns:
            One :class:`Generation` per prompt; its text is the titles joined by the separator.

        Raises:
            MethodError: vLLM ended an answer within a title.
        """
        from vllm.sampling_params import StructuredOutputsParams

        answers: list[list[int]] = [[] for _ in prompts]
        left = [list(dict.fromkeys(choice.text for choice in own)) for own in choices]
        lengths = [min(n_titles, len(own)) for own in left]
        for turn in range(max(lengths, default=0)):
            rows = [row for row, length in enumerate(lengths) if turn < length]
            texts = {
                row: [t + separator * (turn + 1 < lengths[row]) for t in left[row]] for row in rows
            }
            outputs = self._run(
                [[*prompts[row].tolist(), *answers[row]] for row in rows],
                [
                    {
                        # A token is at least one byte; the end token comes after them.
                        "max_tokens": max(len(t.encode()) for t in texts[row]) + 1,
                        "structured_outputs": StructuredOutputsParams(choice=texts[row]),
                    }
                    for row in rows
                ],
                adapter,
            )
            for row, output in zip(rows, outputs, strict=True):
                ids, text = self._without_end(output.outputs[0])
                if text not in texts[row]:
                    raise MethodError(
                        f"vLLM answered {text!r} ({output.outputs[0].finish_reason}) to prompt {row} "
                        "although a title of the list was required. Use scorer=likelihood, or "
                        "generate without constraint."
                    )
                left[row].pop(texts[row].index(text))
                answers[row] += ids
        return [Generation(np.array(ids, dtype=np.int32), "stop") for ids in answers]

    def close(self) -> None:
        """End vLLM's processes; the engine is not used afterwards."""
        if self._llm is not None:
            self._llm.llm_engine.engine_core.shutdown()
            self._llm = None
            release_accelerators()

    def _without_end(self, answer: Any) -> tuple[list[int], str]:
        """An answer's tokens and text, without the token that ends a structured answer."""
        tokenizer = self._llm.get_tokenizer()
        ids = list(answer.token_ids)
        ids = ids[:-1] if ids and ids[-1] == tokenizer.eos_token_id else ids
        # vLLM's own text may begin with bytes that a prompt left incomplete.
        return ids, tokenizer.decode(ids, clean_up_tokenization_spaces=False)

    def _run(
        self,
        inputs: Sequence[list[int]],
        settings: Sequence[dict[str, Any]],
        adapter: Path | None,
    ) -> list[Any]:
        """Put requests of one adapter through vLLM and count the tokens it read."""
        if not inputs:
            return []
        from vllm import SamplingParams

        request = self._adapter_request(adapter)
        engine = self._llm.llm_engine
        if engine.has_unfinished_requests():
            raise MethodError(
                "an earlier call to vLLM was interrupted and its requests are still waiting; they "
                "could be mixed with another adapter's. Close the engine and make a new one."
            )
        self._check(inputs, settings, engine.vllm_config.model_config)
        outputs: list[Any] = self._llm.generate(
            [{"prompt_token_ids": ids} for ids in inputs],
            [SamplingParams(**{"temperature": 0, "detokenize": False, **own}) for own in settings],
            lora_request=request,
            use_tqdm=False,
        )
        # Every token but an answer's last one is read by the model, unless it was cached.
        self.tokens_processed += sum(
            len(o.prompt_token_ids) - (o.num_cached_tokens or 0) + len(o.outputs[0].token_ids) - 1
            for o in outputs
        )
        return outputs

    def _adapter_request(self, folder: Path | None) -> Any:
        """The handle of an adapter for vLLM; starts vLLM, or restarts it for a larger rank."""
        rank = 0 if folder is None else adapter_rank(folder)
        if self._llm is None or rank > self._rank:
            self.close()
            self._rank = rank_capacity(max(rank, self._options.max_lora_rank)) if rank else 0
            self._llm = self._start()
        if folder is None:
            return None
        from vllm.lora.request import LoRARequest

        # A changed file is another adapter to vLLM's caches.
        number = self._ids.setdefault(stamp(folder), len(self._ids) + 1)
        return LoRARequest(f"{folder.name}-{number}", number, str(folder.resolve()))

    def _start(self) -> Any:
        from vllm import LLM

        lora = {
            "enable_lora": True,
            "max_loras": 1,
            "max_lora_rank": self._rank,
            "max_cpu_loras": self._options.max_cpu_loras,
        }
        # vLLM takes its share of what is free, in processes of its own.
        release_accelerators()
        try:
            return LLM(**self._arguments, **(lora if self._rank else {}))
        except (ValueError, RuntimeError) as error:
            raise MethodError(
                f"vLLM did not start: {error}. Its log above says more; memory and length are set "
                "by kv_cache_gib, gpu_memory_utilization and max_model_len, and route=prompt needs "
                "the least of vLLM."
            ) from error

    def _check(
        self, inputs: Iterable[list[int]], settings: Iterable[dict[str, Any]], model: Any
    ) -> None:
        vocabulary, longest = model.get_vocab_size(), model.max_model_len
        for ids, own in zip(inputs, settings, strict=True):
            if not ids:
                raise ConfigError("a prompt is empty; expected at least one token.")
            asked = [*ids, *own.get("logprob_token_ids", ())]
            if min(asked) < 0 or max(asked) >= vocabulary:
                raise ConfigError(
                    f"token ids from {min(asked)} to {max(asked)}; the model knows 0 to "
                    f"{vocabulary - 1}. Use the tokenizer of the same backbone."
                )
            if len(ids) + own["max_tokens"] > longest:
                raise MethodError(
                    f"a prompt has {len(ids)} tokens and up to {own['max_tokens']} follow; vLLM "
                    f"was started for {longest}. Lower max_history or max_prompt_tokens, or "
                    "raise max_model_len."
                )


def _distinct(
    branches: Sequence[Sequence[TokenIds]],
) -> tuple[list[tuple[int, tuple[int, ...]]], list[list[int]]]:
    """The different non-empty branches as (prompt, tokens), and for every branch which it is."""
    known: dict[tuple[int, tuple[int, ...]], int] = {}
    owners = []
    for user, own in enumerate(branches):
        keys = [(user, tuple(branch.tolist())) for branch in own]
        owners.append([known.setdefault(key, len(known)) if key[1] else -1 for key in keys])
    return list(known), owners


def _forced(route: Route, branch: list[int]) -> dict[str, Any]:
    if route == "replay":
        return {"trace_decode_token_ids": branch}
    return {"extra_args": {"forced_tokens": branch}, "ignore_eos": True}


def _of_answer(output: Any, branch: Sequence[int]) -> float:
    """Sum of the log-probabilities of an answer that had to be ``branch``."""
    answer = output.outputs[0]
    if list(answer.token_ids) != list(branch):
        raise MethodError(
            f"vLLM emitted tokens {list(answer.token_ids)[:8]} where {list(branch)[:8]} were forced; "
            "this build cannot force tokens. Set route=prompt."
        )
    steps = zip(answer.logprobs, branch, strict=True)
    return float(sum(step[token].logprob for step, token in steps))


def _of_prompt(output: Any, branch: Sequence[int]) -> float:
    """Sum of the log-probabilities of the prompt's last tokens, which are ``branch``."""
    steps = zip(output.prompt_logprobs[-len(branch) :], branch, strict=True)
    return float(sum(step[token].logprob for step, token in steps))


def _generation(answer: Any, stop: frozenset[int]) -> Generation:
    ids = np.array(answer.token_ids, dtype=np.int32)
    if answer.finish_reason != "stop":
        return Generation(ids, "length")
    return Generation(ids[:-1] if len(ids) and int(ids[-1]) in stop else ids, "stop")
