"""The distance and the id that a search returns in places that it cannot fill; FAISS uses the same values."""

MISSING_DISTANCE = 2**31 - 1
MISSING_ID = -1
