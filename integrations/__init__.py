"""Rerankers for frameworks: one module for each, which needs the framework and is imported on use."""
