"""The commands: parsing of options and recipes, results, one function per command."""
