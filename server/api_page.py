"""`page`: the page at /docs, which shows the description of the API and can try a request. It loads nothing from elsewhere."""

from importlib.resources import files


def page() -> str:
    """Return the page as HTML. It reads /openapi.json from the server that it came from."""
    return files(__package__).joinpath("api_page.html").read_text(encoding="utf-8")
