"""The engine: from a pipeline file to committed versions.

Read the rooms in the order in which a run passes through them:

* `operator`: what authors of operators use, and how operators are found
* `llm`: model calls: providers, limits, the journal of answers
* `fingerprint`: an operator's code as one hash
* `spec`: the pipeline file as frozen data, with the position of every value
* `sources`: rows from files, hubs and generators, with their types checked
* `pipeline`: from the file to a checked, typed graph
* `jobs`: messages between the driver and its workers, and the files of finished partitions
* `planning`: step keys, and plans of what a run would do and cost
* `worker`: runs one partition of a step
* `running`: runs a pipeline: the cluster, the steps, the commits
* `export`: writes versions from the registry into folders
* `upkeep`: verifies and cleans up the engine's files in a registry
* `cli`: the command line

A room imports only rooms above it in this list. `errors`, `library_noise` and `provenance` are used by all of them.
"""
