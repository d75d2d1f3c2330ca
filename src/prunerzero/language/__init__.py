"""Models and texts: where they come from, and how well one predicts the other."""
