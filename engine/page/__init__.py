"""The page of `engine ui`: what a registry holds, as HTML on this machine."""
