"""Rules of every test run: with HWGEN_REQUIRE_TOOLS=1 (.ci/run) a skip is a failure, and a run in which nothing passed fails."""

from __future__ import annotations

import os

import pytest

from hwgen import ending

REQUIRE_TOOLS = os.environ.get("HWGEN_REQUIRE_TOOLS") == "1"


def pytest_addoption(parser):
    parser.addoption("--update", action="store_true", help="write the .expect files of tests/snapshots anew")


@pytest.fixture(autouse=True)
def faults(tmp_path_factory, monkeypatch):
    """A fault that a test provokes in its own process writes its log into a folder of this run, not into the user's cache."""
    place = tmp_path_factory.getbasetemp() / "faults"
    monkeypatch.setattr(ending, "fault_folder", lambda: place)
    return place


def _fail_skip(report) -> None:
    """Turns the skipped ``report`` (of a test or of a whole file) into a failure that keeps the reason."""
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    report.outcome = "failed"
    report.longrepr = f"HWGEN_REQUIRE_TOOLS=1 allows no skip: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if REQUIRE_TOOLS and report.skipped and not hasattr(report, "wasxfail"):
        _fail_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    report = yield
    if REQUIRE_TOOLS and report.skipped:
        _fail_skip(report)
    return report


def pytest_sessionfinish(session, exitstatus):
    """Nothing passed (all skipped, all deselected): not a good run."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if exitstatus == 0 and reporter and not session.config.option.collectonly and not reporter.stats.get("passed"):
        session.exitstatus = pytest.ExitCode.NO_TESTS_COLLECTED
