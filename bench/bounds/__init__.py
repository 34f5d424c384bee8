"""Bounds from below: what no attack inside a radius can do, image by image."""
