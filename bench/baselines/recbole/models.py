"""Which further RecBole models are offered as ``recbole:NAME``, and why others are not.

An allowed model was trained in a test on this project's batches and beat random scoring by a stated
margin. Nothing here imports RecBole, so listing is cheap.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ALLOWED", "REFUSED", "AllowedModel"]


@dataclass(frozen=True, slots=True)
class AllowedModel:
    """One offered model.

    Attributes:
        note: one sentence for ``bench methods``.
        fixed_width: whether the class only works on batches of ``max_history`` columns.
    """

    note: str
    fixed_width: bool = False

    def __str__(self) -> str:
        return self.note


ALLOWED: dict[str, AllowedModel] = {
    "CORE": AllowedModel("session encoder and items in one space, cosine scores."),
    "Caser": AllowedModel("horizontal and vertical convolutions over the history.", True),
    "FPMC": AllowedModel("factorised first-order Markov chain with user factors, BPR."),
    "FOSSIL": AllowedModel("item similarity joined with a higher-order Markov chain.", True),
    "GCSAN": AllowedModel("session graph network followed by self-attention."),
    "HGN": AllowedModel("feature and instance gating over the newest items.", True),
    "HRM": AllowedModel("hierarchical pooling of user and recent items."),
    "LightSANs": AllowedModel("self-attention over a few latent interests.", True),
    "NARM": AllowedModel("GRU with attention over its states."),
    "NPE": AllowedModel("neural personalised embedding of user and history."),
    "NextItNet": AllowedModel("dilated causal convolutions.", True),
    "RepeatNet": AllowedModel("a switch between repeating and exploring.", True),
    "SINE": AllowedModel("sparse interests from latent prototypes.", True),
    "SRGNN": AllowedModel("gated graph network on the session graph."),
    "STAMP": AllowedModel("attention that favours the last item."),
    "TransRec": AllowedModel("users as translations between items, BPR."),
}

REFUSED: dict[str, str] = {
    "BERT4Rec": "it is a method of its own: use bert4rec.",
    "DIEN": "it needs click labels and negative histories, which leave-one-out data do not have.",
    "DIN": "it is a click model that needs labels; it does not rank from a history alone.",
    "FDSA": "it needs item features beyond the title.",
    "FEARec": "its contrastive loss samples from RecBole's own data set object, which is not built here.",
    "GRU4Rec": "it is a method of its own: use gru4rec.",
    "GRU4RecCPR": "its output layer re-ranks its own top 100 and fails on smaller vocabularies.",
    "GRU4RecF": "it needs item features beyond the title.",
    "GRU4RecKG": "it needs knowledge-graph embeddings.",
    "KSR": "it needs a knowledge graph.",
    "S3Rec": "it needs item attributes and a separate pre-training stage.",
    "SASRec": "it is a method of its own: use sasrec.",
    "SASRecCPR": "its output layer re-ranks its own top 100 and fails on smaller vocabularies.",
    "SASRecF": "it needs item features beyond the title.",
    "SHAN": "its loss reads reversed copies of the histories that only RecBole's own loader makes.",
}
