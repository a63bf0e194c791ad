"""The operators, record types and generators that come with the engine, which loads every module in this package."""
