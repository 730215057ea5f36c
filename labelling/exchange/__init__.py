"""Labels to and from labelling tools."""
