"""Figures drawn with matplotlib, and the statistics of codes that figures and reports show."""
