"""What the commands do: here the wings meet, and nowhere else. Each task is one function."""
