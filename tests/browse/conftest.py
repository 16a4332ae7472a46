from tests.pages import browser, digits_run

__all__ = ["browser", "digits_run"]
