"""The `pikojax` command: `main.py` finds the verb, one file a verb parses, calls and prints; the work is done elsewhere."""
