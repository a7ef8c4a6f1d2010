"""How files are read and written: the cache, locks, whole files, JSON records, TSV and TREC."""
