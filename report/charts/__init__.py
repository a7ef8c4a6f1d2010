"""Charts of a report: SVG that takes the colours of the page."""
