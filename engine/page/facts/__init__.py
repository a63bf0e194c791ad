"""The facts on pages: functions that ask the registry and return frozen data. They know nothing about HTML."""
