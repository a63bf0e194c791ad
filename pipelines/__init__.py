"""The pipelines that come with the engine; `engine run quickstart` finds them by name."""
