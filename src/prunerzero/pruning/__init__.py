"""Using a metric: statistics of a model on a text, masks, pruned models and their loss."""
