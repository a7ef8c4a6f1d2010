"""The page of a report: its sections, with words, tables and charts, as HTML."""
