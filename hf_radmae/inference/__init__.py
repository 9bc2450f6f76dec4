"""A trained model at work: pipelines, embeddings, and a page to try it on."""
