"""The distance and the id that a search returns if it finds fewer codes than requested; FAISS uses the same values."""

MISSING_DISTANCE = 2**31 - 1
MISSING_ID = -1
