"""What is on record of scores that another program computed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from bench.errors import ConfigError
from bench.methods import Family

__all__ = ["Imported", "declared"]


def _printable(text: str) -> str:
    if not text.strip() or not text.isprintable():
        raise ValueError("expected text that can be printed, not empty")
    return text


Text = Annotated[str, Field(max_length=200), AfterValidator(_printable)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Imported(BaseModel):
    """Scores of another program. Nothing but the file's hash can be checked here: it is declared.

    Attributes:
        file: name of the file of scores, without its folder.
        scores_sha256: SHA-256 of that file.
        family: block of a table that the row stands in.
        trained: whether another training seed would change the scores.
        fit_seconds: wall seconds of training there.
        score_seconds: wall seconds of scoring there.
        peak_memory_mb: peak memory there, in MB.
        hardware: what it ran on, in words.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: Text
    scores_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    family: Family = Family.SINGLE_DOMAIN
    trained: bool = True
    fit_seconds: Amount | None = None
    score_seconds: Amount | None = None
    peak_memory_mb: Amount | None = None
    hardware: Text | None = None

    def costs(self) -> dict[str, Any]:
        """The fields of a manifest that tell costs: what was declared, null if nothing was.

        What reading the file took here says nothing of the program, and is not recorded.
        """
        known = [self.fit_seconds, self.score_seconds]
        total = None if None in known else sum(filter(None, known))
        seconds = {"fit": self.fit_seconds, "score": self.score_seconds, "total": total}
        return {
            "device": None,
            "threads": None,
            "seconds": {**seconds, "total_with_adapters": total},
            "cpu_seconds": {},
            "peak_memory": {"mb": self.peak_memory_mb},
            "hardware": {} if self.hardware is None else {"cpu": self.hardware},
        }

    def differences(self, other: Mapping[str, Any]) -> list[str]:
        """In what a stored record differs from this one, in words: stored, then given."""
        mine = self.model_dump(mode="json")
        return [
            f"{key} is {_short(other.get(key))}, given {_short(value)}"
            for key, value in mine.items()
            if other.get(key) != value
        ]


def _short(value: object) -> str:
    return f"{value[:12]}..." if isinstance(value, str) and len(value) == 64 else str(value)


def declared(values: Mapping[str, Any]) -> Imported:
    """The record of an import.

    Raises:
        ConfigError: a value that is not allowed, by its option.
    """
    try:
        return Imported.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        option = "--" + str(first["loc"][0]).replace("_", "-")
        raise ConfigError(f"{option}: {first['msg']}, found {first['input']!r}.") from error
