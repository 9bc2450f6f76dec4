"""Radiographs in: readers, `datasets` builders, generated radiographs, splits."""
