"""Facts about runs: the list of runs, a single run, and costs."""
