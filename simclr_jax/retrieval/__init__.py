"""Embeddings of whole data sets on disk, and search among them."""
