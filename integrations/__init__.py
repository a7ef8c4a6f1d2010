"""Rerankers for frameworks. Each has a module, which needs the framework and is imported only on use."""
