"""Tables that people bring and take: CSV, TSV (also .gz) and Parquet, read as text columns."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bench.errors import ProtocolError
from bench.io import write_bytes

if TYPE_CHECKING:
    import polars as pl

__all__ = ["TableFormat", "read_table", "require_values", "table_format", "write_table"]

TableFormat = Literal["csv", "tsv", "parquet"]


def table_format(path: Path) -> TableFormat:
    """The format of a file by its name.

    Raises:
        ProtocolError: another ending than .csv, .tsv (each also with .gz) and .parquet.
    """
    name = path.name.lower().removesuffix(".gz")
    formats: tuple[TableFormat, ...] = ("csv", "tsv", "parquet")
    for known in formats:
        if name.endswith(f".{known}"):
            return known
    raise ProtocolError(
        f"{path}: unknown kind of table. Expected a name ending in .csv, .tsv, .csv.gz, .tsv.gz or "
        ".parquet."
    )


def read_table(path: Path, required: Sequence[str], optional: Sequence[str] = ()) -> pl.DataFrame:
    """Read the named columns; ids stay text, so that leading zeros survive.

    TSV is read without quoting, CSV with double quotes.

    Raises:
        ProtocolError: no such file, not readable as a table, columns missing or there twice.
    """
    import polars as pl

    kind = table_format(path)
    if not path.is_file():
        raise ProtocolError(f"{path}: no such file.")
    try:
        if kind == "parquet":
            frame = pl.read_parquet(path)
        else:
            frame = pl.read_csv(
                path,
                separator="," if kind == "csv" else "\t",
                quote_char='"' if kind == "csv" else None,
                infer_schema=False,
            )
    except (pl.exceptions.PolarsError, OSError, ValueError) as error:
        raise ProtocolError(f"{path}: not readable as {kind}: {error}") from error
    missing = [name for name in required if name not in frame.columns]
    if missing:
        raise ProtocolError(
            f"{path}: columns {', '.join(missing)} are missing; found {', '.join(frame.columns)}. "
            f"Expected {', '.join(required)}"
            + (f", and optionally {', '.join(optional)}." if optional else ".")
        )
    # Polars renames a column whose name stands before it; which of the two is meant, nobody can tell.
    twice = [n for n in (*required, *optional) if f"{n}_duplicated_0" in frame.columns]
    if twice:
        raise ProtocolError(
            f"{path}: column {twice[0]!r} stands more than once in the header; expected one column of "
            "each name. Rename or remove the others."
        )
    frame = frame.select([*required, *(name for name in optional if name in frame.columns)])
    ids = [name for name in frame.columns if name.endswith("_id")]
    frame = frame.with_columns(pl.col(name).cast(pl.String) for name in ids)
    for name in ids:
        require_values(path, frame, name)
    return frame


def require_values(path: Path, frame: pl.DataFrame, name: str) -> None:
    """Raise a ProtocolError naming the row if column ``name`` has an empty cell."""
    empty = frame[name].is_null()
    if empty.any():
        row = int(empty.arg_true()[0])
        raise ProtocolError(
            f"{path}: row {row + 1} of the data: no {name}; every row needs one. {int(empty.sum())} rows "
            "are affected."
        )


def write_table(path: Path, columns: dict[str, Any]) -> None:
    """Write equally long columns; complete or not at all.

    Raises:
        ProtocolError: the ending is unknown, or ends in .gz, which is read but not written.
        OSError: it cannot be written.
    """
    import polars as pl

    kind = table_format(path)
    if path.name.lower().endswith(".gz"):
        raise ProtocolError(f"{path}: writing .gz is not supported; use .parquet for small files.")
    frame = pl.DataFrame(columns)
    # Polars has errors of its own for a full disk; what is written from memory has the system's.
    content = io.BytesIO()
    if kind == "parquet":
        frame.write_parquet(content)
    elif kind == "csv":
        frame.write_csv(content)
    else:
        frame.write_csv(content, separator="\t", quote_style="never")
    write_bytes(path, content.getbuffer())
