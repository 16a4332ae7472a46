"""Tests with random inputs. They are short and repeatable, unless FUZZ_SECONDS says how long each of them may take."""
