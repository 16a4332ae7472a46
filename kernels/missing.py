"""What a search returns in places that it cannot fill, as FAISS does."""

MISSING_DISTANCE = 2**31 - 1
MISSING_ID = -1
