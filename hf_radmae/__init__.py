"""Masked autoencoders on radiographs of every size, with Hugging Face parts."""
