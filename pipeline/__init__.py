"""Machinery: configuration, volumes, blocks, tables, schedule, command line."""
