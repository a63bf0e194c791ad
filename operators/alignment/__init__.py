"""Operators of Dialectical Alignment: models that keep to what is true among contexts that are not."""
