"""Reads and writes files: the cache, locks, atomic writes, JSON records, TSV and TREC."""
