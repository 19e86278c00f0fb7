"""The command line: arguments, tables, progress and exit codes over the SDK."""
