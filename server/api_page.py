"""`page` returns the page at /docs, which shows the API's description and can send requests. It needs no other host."""

from importlib.resources import files


def page() -> str:
    """Return the page as HTML. The page reads /openapi.json from the server that sent it."""
    return files(__package__).joinpath("api_page.html").read_text(encoding="utf-8")
