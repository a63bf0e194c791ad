"""Compares versions, runs and variants: metrics side by side, and rows in pairs with intervals."""
