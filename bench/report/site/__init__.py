"""Tables as a static site: :func:`write_site`. It needs no server and asks no other host."""

from bench.report.site.write import Board, write_site

__all__ = ["Board", "write_site"]
