"""Questions to a registry: confined SQL, differences between versions, impact of rows."""
