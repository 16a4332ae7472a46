"""The naive truth of every op, straight from its formula. Tests and benchmarks compare with these."""
