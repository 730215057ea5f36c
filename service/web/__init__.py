"""`wafer serve`: images in over HTTP, answers out."""
