"""The page of a report: sections with text, tables and charts, as HTML."""
