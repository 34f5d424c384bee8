"""The wall: what is planned and what is known, as files that need no torch to be read."""
