"""From evidence to verdict. No torch here, and nothing is run: judging can be repeated anywhere."""
