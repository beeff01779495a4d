"""For pytest, which looks for this name here: how it tests notebooks, from whichever folder."""

from tests import collected_notebooks


def pytest_configure(config):
    config.pluginmanager.register(collected_notebooks)
