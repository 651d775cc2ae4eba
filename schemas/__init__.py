"""Stream schemas as data: TOML files that say which field is what."""
