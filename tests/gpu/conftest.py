"""Tests that need a GPU. They import neither torch nor onnx, so they run without the packages for exports."""

import pytest


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Fail a run with `-m gpu` in which no test was executed, with the exit status of a run that found no tests."""
    terminal = session.config.pluginmanager.get_plugin("terminalreporter")
    if session.config.option.markexpr == "gpu" and exitstatus == pytest.ExitCode.OK and terminal is not None:
        executed = terminal.stats.get("passed", []) + terminal.stats.get("failed", [])
        if not executed:
            session.exitstatus = pytest.ExitCode.NO_TESTS_COLLECTED
