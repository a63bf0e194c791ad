"""Typed rows: record types, their Arrow columns, and their content ids."""
