"""What a kernel is: its problem, its layer's numbers, its rounding, what it takes and gives. No TIR in here."""
