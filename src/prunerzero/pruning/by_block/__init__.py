"""Pruning with one block of the model on the device at a time."""
