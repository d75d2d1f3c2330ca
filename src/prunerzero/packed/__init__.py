"""Pruned weights stored as one bit a weight and the kept values, and the products with them."""
