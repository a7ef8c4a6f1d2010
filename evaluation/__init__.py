"""Ranking quality of bundles on collections with relevance judgments: `crossrt evaluate`."""
