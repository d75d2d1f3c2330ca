"""Models measured side by side on this machine: bytes, memory, speed and perplexity of each."""
