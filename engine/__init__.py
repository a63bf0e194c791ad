"""The engine: from a pipeline file to committed versions.

Read the rooms in the order in which a run passes through them:

* `operator`: what an author of operators sees, and how operators are found
* `llm`: asking models: providers, limits, the journal of answers
* `fingerprint`: what an operator's code does, as one hash
* `spec`: the pipeline file as frozen data, with the place of every value
* `sources`: rows from files, hubs and generators, typed as they come in
* `pipeline`: from the file to a checked, typed graph
* `jobs`: what the driver and its workers exchange, and what a finished partition leaves behind
* `planning`: step keys, and what a run would do and cost
* `worker`: runs one partition of a step
* `running`: runs a pipeline: the cluster, the steps, the commits
* `export`: takes versions out of the registry
* `upkeep`: proves and cleans what the engine keeps in a registry
* `cli`: the command line

A room imports only rooms above it in this list. `errors`, `library_noise` and `provenance` serve all of them.
"""
