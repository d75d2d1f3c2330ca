"""What ``tune`` is made of: its texts, its limit, its bench, its course, its figures, its words."""
