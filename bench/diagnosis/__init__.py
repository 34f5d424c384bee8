"""May a number be believed? Signs of gradient masking, and what they mean."""
