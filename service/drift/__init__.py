"""`wafer drift`: are the images and the answers of a day still what the model was made for."""
