"""From datasets and image files to batches, and what is drawn of them."""
