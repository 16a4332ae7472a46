"""Figures drawn with matplotlib, and the statistics of codes that they show."""
