"""An archive once over -> Parquet at training resolution, with hashes in place of ids."""
