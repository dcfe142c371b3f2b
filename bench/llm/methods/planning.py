"""Jobs of the LLM methods with their estimates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

from bench.io import read_json
from bench.llm.backbones import Backbone, find_backbone
from bench.llm.config import AdapterMethodConfig, LLMConfig
from bench.llm.estimates import (
    Work,
    batch_tokens,
    merge_memory_mb,
    prior_work,
    scoring_memory_mb,
    scoring_work,
    seconds_of,
    training_memory_mb,
    training_work,
)
from bench.llm.machine import REFERENCE_GPU, accelerator_memory, measure_machine
from bench.llm.merge import Merge
from bench.llm.shapes import PUBLISHED_SHAPES, ModelShape, shape_from_config
from bench.methods import Job, PlanSpec

__all__ = ["JobWriter"]

# What a merge takes anyway, and entries of products per second if it acts on these one by one.
_MERGE_START = 1.0
_PRODUCT_ENTRIES_PER_SECOND = 25e6


class JobWriter:
    """Writes the jobs of one configuration, with what each will take as far as that can be told.

    Args:
        config: of the method.
        spec: what is planned.
    """

    def __init__(self, config: LLMConfig, spec: PlanSpec) -> None:
        self._config: Any = config
        self._spec = spec

    @cached_property
    def backbone(self) -> Backbone | None:
        """The backbone, if it is on this machine; nothing is downloaded or converted for a plan."""
        return find_backbone(self._config.backbone)

    @cached_property
    def shape(self) -> ModelShape | None:
        """Sizes of the backbone: from its configuration, else published ones, else None."""
        published = PUBLISHED_SHAPES.get(self._config.backbone.partition("@")[0])
        if self.backbone is None:
            return published
        file = self.backbone.folder / "config.json"
        return shape_from_config(read_json(file)) if file.is_file() else published

    def adapter(self, label: str, key: str, domains: Sequence[str]) -> Job:
        """The training of one adapter."""
        config: AdapterMethodConfig = self._config
        sizes = [self._spec.sizes.get(name) for name in domains]
        known = [size for size in sizes if size is not None]
        work = training_work(known, config) if len(known) == len(sizes) else None
        memory = None
        if self.shape is not None:
            memory = training_memory_mb(self.shape, config, dtype=self._spec.dtype)
        return self._job("adapter", label, key, work, memory, training=config)

    def merge(self, merge: Merge, key: str, n_adapters: int) -> Job:
        """The merge of adapters."""
        seconds = memory = None
        if self.shape is not None:
            lora = self._config.lora
            numbers = (n_adapters + 1) * self.shape.lora_weights(lora)
            options = merge.options
            seconds = _MERGE_START + numbers / options.numbers_per_second
            if options.entrywise and not options.on_factors:
                entries = n_adapters * self.shape.adapted_weights(lora)
                seconds += entries / _PRODUCT_ENTRIES_PER_SECOND
            memory = merge_memory_mb(self.shape, lora, n_adapters)
        return Job(
            "merge",
            merge.label(n_adapters),
            key,
            known=self.backbone is not None,
            seconds=seconds,
            gpu_seconds=seconds,
            memory_mb=memory,
        )

    def differentiated(self, job: Job, n_adapters: int, times: float) -> Job:
        """A scoring job that also runs backwards, request by request, beside ``n_adapters`` adapters.

        Args:
            job: the scoring alone.
            n_adapters: frozen adapters that are held.
            times: its cost in units of the scoring.
        """
        memory = job.memory_mb
        if memory is not None and self.shape is not None:
            # A request with its candidates is about a micro-batch of training.
            held = training_memory_mb(self.shape, self._config, dtype=self._spec.dtype)
            numbers = (n_adapters - 1) * self.shape.lora_weights(self._config.lora)
            memory = max(memory, held + 4 * numbers / 1e6)
        return replace(
            job,
            seconds=None if job.seconds is None else times * job.seconds,
            gpu_seconds=None if job.gpu_seconds is None else times * job.gpu_seconds,
            memory_mb=memory,
        )

    def score(
        self, kind: str, label: str, n_users: int | None, n_candidates: int, *, n_priors: int = 0
    ) -> Job:
        """The scoring of ``n_users`` users of the target, and of ``n_priors`` times its vocabulary."""
        size, spec = self._spec.sizes.get(self._spec.target), self._spec

        def work(tokens: int) -> Work | None:
            if size is None or n_users is None:
                return None
            counts = {"n_users": n_users, "n_candidates": n_candidates, "tokens": tokens}
            # A prompt that lists its candidates has a prior of its own.
            times = 1 if self._config.prompt == "listwise" else n_priors
            prior = prior_work(size, self._config, **counts).times(times)
            return scoring_work(size, self._config, **counts) + prior

        there = None if spec.device == "cpu" else accelerator_memory(spec.device)
        there = there or (None if spec.device == "cpu" else REFERENCE_GPU.memory)
        here, on_gpu = self._batch(there), self._batch(REFERENCE_GPU.memory)
        memory = None
        if self.shape is not None:
            memory = scoring_memory_mb(self.shape, self._config, dtype=spec.dtype, tokens=here)
        return self._job(kind, label, "", work(here), memory, on_gpu=work(on_gpu))

    def _batch(self, memory: int | None) -> int:
        """Tokens of one forward pass on an accelerator of so many bytes, or None on a processor."""
        return batch_tokens(self._config, self.shape, dtype=self._spec.dtype, memory=memory)

    def _job(
        self,
        kind: str,
        label: str,
        key: str,
        work: Work | None,
        memory: float | None,
        *,
        training: AdapterMethodConfig | None = None,
        on_gpu: Work | None = None,
    ) -> Job:
        """A job of this work on the planned device, and of ``on_gpu`` (or the same) on the reference."""
        seconds = gpu_seconds = None
        if work is not None and self.shape is not None:
            spec = self._spec
            machine = measure_machine(spec.device, spec.dtype, spec.threads)
            gpu_seconds = seconds_of(on_gpu or work, self.shape, REFERENCE_GPU, training=training)
            if machine is not None:
                seconds = seconds_of(work, self.shape, machine, training=training)
        return Job(
            kind,
            label,
            key,
            known=not key or self.backbone is not None,
            seconds=seconds,
            gpu_seconds=gpu_seconds,
            tokens=None if work is None else work.tokens,
            memory_mb=memory,
        )
