"""The operators, record types and generators that come with the engine; every module below is loaded by it."""
