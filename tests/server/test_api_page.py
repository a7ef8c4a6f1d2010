"""The page at /docs, in a real browser: it shows the description and sends requests, with a key where one is needed."""

from collections.abc import Iterator

import pytest

from tests import browser
from tests.server.conftest import Served, Start

KEY = "a key of the test"
SEND = """
(async () => {
    const details = [...document.querySelectorAll("details")].find(
        each => each.querySelector("b").textContent === METHOD && each.querySelector("code").textContent === PATH);
    const buttons = [...details.querySelectorAll("button")], out = details.querySelector("pre");
    buttons.find(each => each.textContent === "Send").click();
    while (!out.textContent || out.textContent === "…") await new Promise(done => setTimeout(done, 10));
    return out.textContent;
})()
"""


pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def server(start_for_all: Start, tmp_path_factory: pytest.TempPathFactory) -> Served:
    keys = tmp_path_factory.mktemp("keys") / "keys.txt"
    keys.write_text(f"{KEY}\n")
    return start_for_all("--api-keys", str(keys))


@pytest.fixture(scope="module")
def page(server: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[browser.Page]:
    with browser.page(browser.required(), tmp_path_factory.mktemp("profile")) as opened:
        opened.open(f"http://127.0.0.1:{server.port}/docs")
        opened.wait_for("document.querySelectorAll('details').length > 10")
        yield opened


def sent(page: browser.Page, method: str, path: str) -> str:
    """Press a path's button, and return what the page then shows of the answer."""
    return str(page.evaluate(SEND.replace("METHOD", f'"{method}"').replace("PATH", f'"{path}"')))


def test_the_page_needs_no_other_host(page: browser.Page, server: Served) -> None:
    assert {url.split("/")[2] for url in page.requests} == {f"127.0.0.1:{server.port}"}


def test_a_request_without_the_key_is_refused(page: browser.Page) -> None:
    page.evaluate("document.getElementById('key').value = ''")
    assert sent(page, "POST", "/rerank").startswith("401 in ")


@pytest.mark.parametrize("path", ["/rerank", "/v2/rerank", "/score", "/predict", "/v1/ranking", "/infinity/rerank"])
def test_the_example_of_a_path_is_answered(path: str, page: browser.Page) -> None:
    page.evaluate(f"document.getElementById('key').value = {KEY!r}")
    answer = sent(page, "POST", path)
    assert answer.startswith("200 in ")
    assert '"score"' in answer or '"relevance_score"' in answer or '"logit"' in answer


def test_what_is_only_read_is_shown(page: browser.Page) -> None:
    page.evaluate(f"document.getElementById('key').value = {KEY!r}")
    assert '"max_input_length"' in sent(page, "GET", "/info")
    assert "crossrt_requests_total" in sent(page, "GET", "/metrics")
