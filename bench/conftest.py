"""Options of the microbenchmarks: the tables show medians, which a busy machine moves less than means."""

import pytest

COLUMNS = ["min", "median", "iqr", "rounds"]


@pytest.hookimpl(tryfirst=True)  # before pytest-benchmark reads its options
def pytest_configure(config: pytest.Config) -> None:
    chosen = any(argument.startswith("--benchmark-columns") for argument in config.invocation_params.args)
    if config.pluginmanager.hasplugin("benchmark") and not chosen:
        config.option.benchmark_columns = COLUMNS
