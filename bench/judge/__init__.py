"""Model + attack + images -> one verdict per image, and verdicts made again."""
