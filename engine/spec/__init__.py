"""The pipeline file as frozen data, in which every value knows its place in the file."""
