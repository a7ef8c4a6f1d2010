"""Tests that need a GPU, and nothing of the workshop: neither torch nor onnx is imported here."""

import pytest


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Have a run that was asked for GPU tests, and has executed none, end as one that has found none."""
    terminal = session.config.pluginmanager.get_plugin("terminalreporter")
    if session.config.option.markexpr == "gpu" and exitstatus == pytest.ExitCode.OK and terminal is not None:
        executed = terminal.stats.get("passed", []) + terminal.stats.get("failed", [])
        if not executed:
            session.exitstatus = pytest.ExitCode.NO_TESTS_COLLECTED
