"""Configuration: what a user wrote becomes a `schema.Config`, or a `ConfigError` that names every mistake at once.

`toml` finds values and where they stand, `option` says what one value may be, `schema` lists all options with defaults and ranges,
`loader` ties them together and checks what concerns several values. `quantity` and `address` read texts with a meaning of their own.
"""
