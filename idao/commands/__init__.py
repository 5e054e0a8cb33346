"""What a person types: parse, one call on `Dao`, print. One module a family; `cli.FAMILIES` lists them."""
