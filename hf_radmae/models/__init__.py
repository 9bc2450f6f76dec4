"""The masked autoencoder, its position tables and masking, and the ViT classifier."""
