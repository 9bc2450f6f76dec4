"""Sizes -> shapes -> batches: grids, bins, levels, data set, collator, samplers, loader, skipped images, processor."""
