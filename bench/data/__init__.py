"""Raw files to domains: catalogue, readers, k-core filter, cache."""
