"""What a run is checked for: each check is a row of a table beside the function that makes it."""
