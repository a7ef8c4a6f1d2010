"""Charts of a report, as SVG that uses the colours of the page."""
