"""An attack, a method, a model, a data set and a table of one's own, for robustness-bench."""
