"""`wafer watch`: images appear in a folder, answers appear in another."""
