"""The engine from Python: `engine.run`, `engine.open` and their results.

`engine` itself exports what users need from here; everything is imported when it is first used.
"""
