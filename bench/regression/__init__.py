"""Tables held to numbers: another day's, the paper's, another folder's. No torch."""
