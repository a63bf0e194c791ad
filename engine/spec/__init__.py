"""The pipeline file as frozen data, with the position of every value in the file."""
