"""The generators: datasets that a program makes."""
