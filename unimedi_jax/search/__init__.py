"""Similar cases: an index of embeddings, searched by picture and by sentence, on the terminal and on a page."""
