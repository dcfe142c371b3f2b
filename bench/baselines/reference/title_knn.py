"""Neighbours by title: no interactions are learned from, only what items are called."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import BaseModel, Field

from bench.baselines.encoder_method import EncoderMethod
from bench.baselines.reference.title_vectors import (
    TitleVectors,
    cosines_over_history,
    encode_titles,
)
from bench.baselines.text import DEFAULT_ENCODER, Pooling
from bench.methods import (
    Context,
    Family,
    MethodConfig,
    Requests,
    Scores,
    TrainView,
)

__all__ = ["TitleKNN", "TitleKNNConfig"]


class TitleKNNConfig(MethodConfig):
    """Options of :class:`TitleKNN`."""

    mode: Literal["max", "recency"] = Field(
        default="max",
        description="max: the most similar history title counts; recency: all, newer ones more",
    )
    history_decay: float = Field(
        default=0.8,
        gt=0,
        le=1,
        description="weight lost by a history item per step into the past, with mode=recency",
    )
    encoder: str = Field(
        default=DEFAULT_ENCODER,
        description="text encoder: all-minilm-l6-v2, a folder, or a Hugging Face id",
    )
    pooling: Pooling | None = Field(
        default=None, description="cls or mean of the token vectors; null: what suits the encoder"
    )
    max_tokens: int = Field(default=64, ge=3, description="tokens of a title that are read")


class TitleKNN(EncoderMethod):
    """Cosine of the candidate's title to the titles of the user's history.

    Titles become vectors of a frozen text encoder, divided by their norm here. With ``mode=max`` the
    score is the largest cosine over the history, with ``mode=recency`` it is ``sum_h history_decay **
    age(h) * cosine``. Nothing is trained, so that items that nobody bought are ranked like others.
    A trained method that reads titles and ranks below this row has not learned from its training.
    """

    name: ClassVar[str] = "title-knn"
    version: ClassVar[str] = "1"
    family: ClassVar[Family] = Family.REFERENCE
    Config: ClassVar[type[BaseModel]] = TitleKNNConfig
    known_below_popularity: ClassVar[dict[str, str]] = dict.fromkeys(
        ("ml-1m", "ml100k-action", "ml100k-comedy", "ml100k-drama"),
        "a film's title says little of who watches it",
    )

    titles: TitleVectors

    def fit(self, view: TrainView, context: Context) -> None:
        config: TitleKNNConfig = self.config
        self.titles = encode_titles(
            view.target.items,
            encoder=config.encoder,
            pooling=config.pooling,
            max_tokens=config.max_tokens,
            context=context,
        )

    def score(self, requests: Requests, context: Context) -> Scores:
        config: TitleKNNConfig = self.config
        decay = config.history_decay if config.mode == "recency" else None
        return Scores(
            cosines_over_history(self.titles, requests.history, requests.candidates, decay=decay)
        )

    def save(self, folder: Path) -> None:
        self.titles.save(folder)

    def load(self, folder: Path) -> None:
        self.titles = TitleVectors.load(folder)
