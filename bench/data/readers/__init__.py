"""One reader per source format; each returns :class:`bench.data.raw.RawData`."""
