"""Tests of the command line."""

TRAIN = ("--dataset", "digits", "--bits", "16", "--epochs", "1", "--batch-size", "64", "--no-flip", "--threads", "1")
