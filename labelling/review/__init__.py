"""The local page where people look at the queue, draw seeds, and answer a blind sample."""
