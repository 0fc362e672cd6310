"""Only SQL: the API database and the cells' own."""
