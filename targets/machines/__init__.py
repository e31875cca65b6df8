"""What there is to compile for, as records: no code, and no kernel, is in here."""
