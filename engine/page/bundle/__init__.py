"""Pages of one run or version as a folder of files that opens from disk: the same pages, with links between files."""
